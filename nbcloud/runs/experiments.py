"""To which experiment runs belong: a name under which those are found together that belong together."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from nbcloud.config import settings

_chosen = ""


def choose(name: str) -> None:
    """Let runs that this process begins from now on belong to this experiment."""
    global _chosen
    _chosen = name


def chosen() -> str:
    """What this process has chosen; empty where it has not."""
    return _chosen


def current() -> str:
    """The experiment of a run that begins now."""
    return _chosen or settings().experiment


@dataclass(frozen=True)
class Experiment:
    """What is on record of an experiment.

    Attributes
    ----------
    name : str
    runs : int
        Nested ones included, and none that were deleted.
    unfinished : int
        How many of these are queued or running.
    latest : float
        When the newest was created, in unix seconds.
    """

    name: str
    runs: int
    unfinished: int
    latest: float


def experiments(connection: sqlite3.Connection) -> list[Experiment]:
    """All experiments that have runs, that of the newest run first."""
    rows = connection.execute(
        "SELECT experiment, COUNT(*), SUM(state IN ('queued', 'running')), MAX(created) FROM runs "
        "WHERE deleted IS NULL GROUP BY experiment ORDER BY MAX(created) DESC"
    )
    return [Experiment(*row) for row in rows]

"""Runs that are deleted: put away first, so that a mistake can be undone, and removed some time later."""

from __future__ import annotations

import contextlib
import time

from nbcloud.errors import RunNotFound
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store


def put_away(store: Store, run_id: str) -> list[Run]:
    """Let searches pass over a run that has ended, and over what is nested in it.

    Raises
    ------
    UsageError
        When it has not ended.
    """
    run = store.ended(run_id)
    now = time.time()
    return [store.update(each, deleted=now) for each in (run.id, *store.parts(run.id))]


def bring_back(store: Store, run_id: str) -> list[Run]:
    """Undo ``put_away``."""
    run = store.get(run_id)
    return [store.update(each, deleted=None) for each in (run.id, *store.parts(run.id))]


def collect_garbage(store: Store, older: float) -> tuple[list[str], int]:
    """Remove runs that were put away so many seconds ago, and contents that no run has.

    Returns
    -------
    list of str, int
        The runs' ids, and the bytes of the contents.
    """
    gone: list[str] = []
    for run_id in store.put_away_before(time.time() - older):
        with contextlib.suppress(RunNotFound):  # it went with that in which it is nested
            gone += store.delete(run_id)
    return gone, store.artifacts.sweep(store.contents())

"""Who chooses the members of a sweep one after the other, by what came of those before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RunNotFound, UsageError
from nbcloud.runs.tracked import Point
from nbcloud.workflows.distributions import plain
from nbcloud.workflows.notebook.outcome import Outcome
from nbcloud.workflows.sweep.folder import Member, Sweep
from nbcloud.workflows.sweep.results import Results

Rows = list[dict[str, Any]]


class Search(Protocol):
    """Is asked for members while there is room for more, and told how each has ended."""

    def ask(self, number: int) -> dict[str, Any] | None:
        """The parameters of the next member, whose number this is; None when there are to be no more."""

    def tell(self, member: Member, ended: Outcome) -> None:
        """A member has ended, now or before this process began."""

    def hopeless(self, member: Member) -> str:
        """Why a member that runs should not go on; empty when it should."""


class Given:
    """All members were known from the beginning."""

    def ask(self, number: int) -> None:
        """There are no more."""

    def tell(self, member: Member, ended: Outcome) -> None:
        """Nobody cares."""

    def hopeless(self, member: Member) -> str:  # noqa: ARG002 - of a search
        """Each may go on."""
        return ""


class Function(Given):
    """A function of the user's chooses: it is given the rows of the table, and returns parameters or None.

    Parameters
    ----------
    sweep : Sweep
    function : callable
    check : callable
        Refuses what the notebook can't take.
    """

    def __init__(
        self,
        sweep: Sweep,
        function: Callable[[Rows], Mapping[str, Any] | None],
        check: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._sweep = sweep
        self._function = function
        self._check = check
        self._over = False

    def ask(self, number: int) -> dict[str, Any] | None:  # type: ignore[override]  # noqa: ARG002
        """What the function says to the table as it is now."""
        chosen = None if self._over else self._function(Results(self._sweep).rows)
        if chosen is None:
            self._over = True
            return None
        if not isinstance(chosen, Mapping):
            raise UsageError(
                f"The function that chooses members returned {chosen!r}.",
                "It must return a dict of parameters, or None when there are to be no more.",
            )
        member = {name: plain(value) for name, value in chosen.items()}
        self._check(member)
        return member


def metrics_of(run: str) -> dict[str, float]:
    """The latest values of all metrics that a run has logged."""
    with open_store() as store:
        return store.tracked([run])[run].metrics


def history_of(run: str, metric: str) -> list[Point]:
    """All values of a metric that a run has logged up to now."""
    with open_store() as store, contextlib.suppress(RunNotFound):  # a record is begun behind its run's back
        return store.history(run, metric)
    return []

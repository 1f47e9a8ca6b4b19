"""How a sweep goes on, as one line that changes: in a terminal, or below a notebook's cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm

from nbcloud.dispatch.recorder import open_store
from nbcloud.workflows.notebook.outcome import Stage
from nbcloud.workflows.sweep.runner import Runner


class Bar:
    """A bar with the time that is left, how members have ended, and the best of them.

    Parameters
    ----------
    title : str
    total : int, optional
        How many members are to run; nobody may know.
    metric : str
        What makes one the best.
    mode : str
        ``"min"`` or ``"max"``.
    """

    def __init__(self, title: str, total: int | None, metric: str = "", mode: str = "min") -> None:
        self._metric = metric
        self._better = min if mode == "min" else max
        self._best: float | None = None
        self._counts: dict[str, int] = {}
        # None: nothing is shown where nobody looks, in a pipe or a file.
        self._bar: Any = tqdm(total=total, desc=title, unit="member", smoothing=0, disable=None)

    def show(self, runner: Runner) -> None:
        """What is new."""
        for member in runner.ended[sum(self._counts.values()) :]:
            end = member.outcome
            self._counts[end.stage] = self._counts.get(end.stage, 0) + 1
            if self._metric and end.stage is Stage.DONE:
                self._compare(end.run)
            self._bar.update()
        parts = [f"{count} {stage}" for stage, count in self._counts.items()]
        if runner.running:
            parts.append(f"{len(runner.running)} running")
        if self._best is not None:
            parts.append(f"best {self._metric} {self._best:.6g}")
        self._bar.set_postfix_str(", ".join(parts))

    def _compare(self, run: str) -> None:
        with open_store() as store:
            value = store.tracked([run])[run].metrics.get(self._metric)
        if value is not None:
            self._best = value if self._best is None else self._better(self._best, value)

    def close(self) -> None:
        """Leave it as it is."""
        self._bar.close()


@contextlib.contextmanager
def bar(title: str, total: int | None, metric: str = "", mode: str = "min") -> Iterator[Bar]:
    """A bar that is closed at the end."""
    shown = Bar(title, total, metric, mode)
    try:
        yield shown
    finally:
        shown.close()

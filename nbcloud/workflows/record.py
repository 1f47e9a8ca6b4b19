"""The record of a notebook that was run as a whole: all that its cells said, in one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nbcloud.dispatch.recorder import Recorder
from nbcloud.runs.entries import line, plain
from nbcloud.runs.record import Run, RunState
from nbcloud.sessions.runlog import renumbered

_SHARED = ("worker", "host", "resources")
"""What is true of the whole when it is true of one of its cells."""


class NotebookRecorder(Recorder):
    """Takes what the runs of cells say, and keeps it as what one run said.

    Parameters
    ----------
    run : Run
        The notebook's.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._count = 0
        self._running = False

    def start(self) -> None:
        """The notebook is about to run: its parameters are what the run was told."""
        self.begin(self.run, str(Path.cwd()))
        entries = [["param", key, plain(value)] for key, value in self.run.extra["parameters"].items()]
        if entries:
            self.lines(self.run.id, line(1, self.run.created, {"run": "", "entries": entries}))

    def place(self, **where: Any) -> None:
        """It is known now where it runs."""
        self.run = self.run.changed(**where)
        super().change(self.run.id, **where)

    def lines(self, run_id: str, lines: bytes) -> None:  # noqa: ARG002 - of whichever cell
        """Messages of a cell: they get the next numbers of the notebook's."""
        numbered = []
        for text in lines.splitlines(keepends=True):
            self._count += 1
            numbered.append(renumbered(text, self._count))
        super().lines(self.run.id, b"".join(numbered))

    def change(self, run_id: str, **changes: Any) -> None:  # noqa: ARG002 - of whichever cell
        """Something about a cell: where the first one runs, the notebook does."""
        if self._running or changes.get("state") is not RunState.RUNNING:
            return
        self._running = True
        known = {key: changes[key] for key in _SHARED if changes.get(key)}
        super().change(self.run.id, state=RunState.RUNNING, started=changes["started"], **known)

    def finish(self, state: RunState, error: dict[str, Any] | None, message: str) -> None:
        """The notebook has ended."""
        super().change(self.run.id, state=state, finished=time.time(), error=error, message=message)

"""The record of a notebook that was run as a whole: all that its cells said, in one run."""

from __future__ import annotations

import time
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
    recorder : Recorder
        Writes it.
    """

    def __init__(self, run: Run, recorder: Recorder) -> None:
        super().__init__()
        self.run = run
        self._recorder = recorder
        self._count = 0

    def lines(self, run_id: str, lines: bytes) -> None:  # noqa: ARG002 - of whichever cell
        """Messages of a cell: they get the next numbers of the notebook's."""
        numbered = []
        for text in lines.splitlines(keepends=True):
            self._count += 1
            numbered.append(renumbered(text, self._count))
        self._recorder.lines(self.run.id, b"".join(numbered))

    def change(self, run_id: str, **changes: Any) -> None:  # noqa: ARG002 - of whichever cell
        """Something about a cell: where it runs is where the notebook runs."""
        if changes.get("state") is not RunState.RUNNING:
            return
        known = {key: changes[key] for key in _SHARED if changes.get(key)}
        self._recorder.change(self.run.id, state=RunState.RUNNING, started=changes["started"], **known)
        self.change = lambda *_args, **_kwargs: None  # type: ignore[method-assign]  # once is enough

    def wake(self) -> None:
        """Keep what is known up to now."""
        self._recorder.wake()

    def begin(self, run: Run, cwd: str | None) -> None:
        """The notebook is about to run."""
        self._recorder.begin(run, cwd)
        entries = [["param", key, plain(value)] for key, value in run.extra["parameters"].items()]
        if entries:
            self.lines(run.id, line(1, run.created, {"run": "", "entries": entries}))

    def place(self, **where: Any) -> None:
        """It is known now where it runs."""
        self.run = self.run.changed(**where)
        self._recorder.change(self.run.id, **where)

    def finish(self, state: RunState, error: dict[str, Any] | None, message: str) -> None:
        """The notebook has ended."""
        self._recorder.change(self.run.id, state=state, finished=time.time(), error=error, message=message)

    def close(self) -> None:
        """All of it is on record when this returns."""
        self._recorder.close()

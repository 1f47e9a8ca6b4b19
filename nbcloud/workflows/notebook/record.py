"""The record of a notebook that was run as a whole: all that its cells said, in one run."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.errors import RunNotFound, UsageError
from nbcloud.runs import experiments
from nbcloud.runs.entries import line, plain
from nbcloud.runs.owners import process_mark
from nbcloud.runs.provenance import SOURCE, keep
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store
from nbcloud.sessions.runlog import number_of, renumbered
from nbcloud.workflows.notebook.manager import SteadyManager
from nbcloud.workflows.notebook.options import NotebookOptions
from nbcloud.workflows.parameters import declared_in

_SHARED = ("worker", "host", "resources")
"""What is true of the whole when it is true of one of its cells."""


def new_run(manager: SteadyManager, asked: NotebookOptions, input_path: str) -> Run:
    """The run of a notebook that is about to begin."""
    given = json.loads(json.dumps(manager.nb.metadata.papermill.get("parameters", {}), default=repr))
    declared: dict[str, Any] = {}
    with contextlib.suppress(UsageError):  # the cell itself tells what is wrong with it
        declared = declared_in(manager.nb)
    defaults = {name: plain(each) for name, each in declared.items() if each is not ... and name not in given}
    cells = asked.of_cells()
    return Run(
        kind="notebook",
        name=asked.name or Path(input_path or "notebook").stem,
        notebook=str(input_path or ""),
        tags=dict(asked.tags),
        experiment=asked.experiment or experiments.current(),
        resources={"cpus": cells.cpus, "memory": cells.memory, "gpus": cells.gpus},
        extra={
            "parameters": given,
            "defaults": defaults,
            "output": manager.output_path or "",
            "seed": asked.seed,
        },
    )


class NotebookRecorder(Recorder):
    """Takes what the runs of cells say, and keeps it as what one run said.

    Its messages have the same numbers whoever reads them off the journals, so that a process that goes on
    with a notebook can give all of them again, and those that are on record already are passed over.

    Attributes
    ----------
    run : Run
        The notebook's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run = Run(kind="notebook")
        self._cell = ""
        self._before = 0
        """The number of the last message before those of the cell."""
        self._count = 0
        self._recorded = 0
        """How many messages an earlier process has put on record."""
        self._running = False
        self._ended = False

    def start(self, run: Run, source: str, *, behind: str = "") -> None:
        """The notebook is about to run: its parameters are what the run was told.

        Parameters
        ----------
        run : Run
        source : str
            The notebook, as it can be run again.
        behind : str
            A run that was stopped, behind whose checkpoint this one goes on: what that logged counts here.
        """
        extra = {**run.extra, "client": process_mark(), "cwd": str(Path.cwd())}
        with open_store() as store:
            of_source = keep(store, SOURCE, source)
            masked = store.redactor.text(source) != source
            before = _logged(store, behind) if behind else []
            if behind:  # its random numbers go on
                extra["seed"] = _seed(store, behind)
        self.run = run.changed(extra=extra, provenance=of_source, masked=masked)
        self.begin(self.run, str(Path.cwd()))
        entries = self._parameters()
        contents = [(self.run.created, {"run": "", "entries": entries})] if entries else []
        contents += before
        self._count = len(contents)
        if contents:
            lines = (line(number, *each) for number, each in enumerate(contents, 1))
            super().lines(self.run.id, b"".join(lines))

    @property
    def count(self) -> int:
        """The number of its last message."""
        return self._count

    def go_on(self, run_id: str, before: int = 0) -> bool:
        """Go on with the record that an earlier process has begun; whether it is there and open to that.

        Parameters
        ----------
        run_id : str
        before : int
            How many of its messages came from sessions before this one.
        """
        try:
            with open_store() as store:
                run = store.get(run_id)
                # What a notebook's own code brought to an end is at that end, however often it is read.
                self._ended = run.state in {RunState.DONE, RunState.FAILED}
                if run.state in {RunState.CANCELLED, RunState.TIMEOUT}:
                    return False
                self._recorded = run.messages if self._ended else store.last_number(run.id)
        except RunNotFound:
            return False
        self.run, self._running = run, True
        extra = {**run.extra, "client": process_mark()}
        self._change(state=RunState.RUNNING, finished=None, message="", extra=extra)
        self._parameters()
        self._count = max(self._count, before)
        return True

    def _parameters(self) -> list[list[Any]]:
        """They are the first message, if there are any."""
        parameters = _parameters(self.run)
        self._count = bool(parameters)
        return [["param", key, plain(value)] for key, value in parameters.items()]

    def _change(self, **changes: Any) -> None:
        if not self._ended:
            super().change(self.run.id, **changes)

    def place(self, **where: Any) -> None:
        """It is known now where it runs."""
        self.run = self.run.changed(**where)
        self._change(**where)

    def lines(self, run_id: str, lines: bytes) -> None:
        """Messages of a cell: they get the next numbers of the notebook's."""
        if run_id != self._cell:
            self._cell, self._before = run_id, self._count
        new = []
        for text in lines.splitlines(keepends=True):
            self._count = self._before + number_of(text)
            if self._count > self._recorded:
                new.append(renumbered(text, self._count))
        if new and not self._ended:
            super().lines(self.run.id, b"".join(new))

    def change(self, run_id: str, **changes: Any) -> None:  # noqa: ARG002 - of whichever cell
        """Something about a cell: where the first one runs, the notebook does."""
        if self._running or changes.get("state") is not RunState.RUNNING:
            return
        self._running = True
        known = {key: changes[key] for key in _SHARED if changes.get(key)}
        self.run = self.run.changed(started=changes["started"])
        self._change(state=RunState.RUNNING, started=changes["started"], **known)

    def finish(self, state: RunState, error: dict[str, Any] | None, message: str) -> None:
        """The notebook has ended."""
        now, began = time.time(), self.run.started
        price = self.run.extra.get("price")
        used = {**self.run.used, "cost": price * (now - began) / 3600} if price and began else self.run.used
        self._change(state=state, finished=now, error=error, message=message, used=used)


def _parameters(run: Run) -> dict[str, Any]:
    """Those that it was given, and the defaults of the others."""
    return {**run.extra.get("defaults", {}), **run.extra.get("parameters", {})}


def _seed(store: Store, run_id: str) -> int | None:
    before = store.load(run_id)
    return before.extra.get("seed") if before is not None else None


def _logged(store: Store, run_id: str) -> list[tuple[float, dict[str, Any]]]:
    """When a run's own code logged what; but its parameters, which were the first."""
    try:
        run = store.get(run_id)
    except RunNotFound:
        return []
    first = bool(_parameters(run))
    messages = store.files(run.id).read_logged(after=int(first))
    return [(each["time"], each["content"]) for each in messages if not each["content"]["run"]]

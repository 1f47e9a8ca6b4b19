"""``%%cloud --local``: the cell runs in the notebook's own kernel, with a record like any other."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from nbcloud import secret_values
from nbcloud.config import settings
from nbcloud.dispatch.notebook import Notebook
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import Recorder
from nbcloud.jupyter.output import cell_error
from nbcloud.redact import Redactor, environment_secrets
from nbcloud.runs.artifacts import Artifacts
from nbcloud.runs.entries import LOGGED, Entry
from nbcloud.runs.experiments import current
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.sinks import Place, begin_nested, end_nested
from nbcloud.runs.tracking import installed
from nbcloud.sessions.runlog import line


class _Tee:
    """A stream that is also kept."""

    def __init__(self, stream: Any, keep: Any) -> None:
        self._stream = stream
        self._keep = keep

    def write(self, text: str) -> int:
        self._keep(text)
        return int(self._stream.write(text))

    def writelines(self, lines: Any) -> None:
        for text in lines:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Logged:
    """What the cell logs, among its messages: a sink of `nbcloud.runs.tracking`."""

    def __init__(self, keep: Callable[[str, dict[str, Any]], None], recorder: Recorder) -> None:
        self._keep = keep
        self._recorder = recorder
        self._redactor = Redactor(environment_secrets(os.environ) | secret_values.all_known())

    def put(self, place: Place, entry: Entry) -> None:
        """Keep an entry."""
        self._keep(LOGGED, {"run": place[1], "entries": [self._redactor.json(entry)]})

    def goes_on(self, place: Place) -> bool:  # noqa: ARG002 - the interface
        """The cell's does."""
        return True

    def begin(self, place: Place, name: str, tags: dict[str, str]) -> Place:
        """Begin a run nested in the cell's."""
        return begin_nested(self, place, name, tags)

    def end(self, place: Place, state: RunState) -> None:
        """End it."""
        end_nested(self, place, state)

    def keep(self, place: Place, name: str, source: Path | bytes) -> None:
        """Take a file in."""
        digest, size = Artifacts(Path(settings().data_dir).absolute()).keep(source)
        self.put(place, ["artifact", name, {"hash": digest, "bytes": size}])

    def flush(self) -> None:
        """Wait until it is on record."""
        self._recorder.flush()


class LocalRun:
    """One cell in this kernel.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    notebook : Notebook
    """

    def __init__(self, shell: Any, notebook: Notebook) -> None:
        self._shell = shell
        self._recorder = notebook.recorder
        self._path = notebook.identity.path
        self._number = 0
        self._error: tuple[str, str, list[str]] | None = None

    def run(self, code: str, options: CellOptions, cell_id: str) -> None:
        """Run the cell.

        Raises
        ------
        CellError
            What the cell raised.
        """
        count = self._shell.displayhook.prompt_count
        run = Run(name=options.name, code=code, notebook=self._path, cell_id=cell_id, execution_count=count,
                  cluster="", session="(this kernel)", tags=options.tags, experiment=current())  # fmt: skip
        self._recorder.begin(run, str(Path.cwd()))
        self._recorder.change(run.id, state=RunState.RUNNING, started=time.time())
        logged = _Logged(partial(self._keep, run.id), self._recorder)
        with self._recording(run.id), installed(logged):
            result = self._shell.run_cell(code, store_history=False)
        error = self._error
        if error is not None:
            self._keep(run.id, "error", {"ename": error[0], "evalue": error[1], "traceback": error[2]})
        self._recorder.change(
            run.id,
            state=RunState.DONE if result.success else RunState.FAILED,
            finished=time.time(),
            error={"ename": error[0], "evalue": error[1]} if error else None,
        )
        if error is not None:
            raise cell_error(*error)

    def _keep(self, run_id: str, kind: str, content: dict[str, Any]) -> None:
        self._number += 1
        data = json.dumps(content, default=str).encode()
        self._recorder.lines(run_id, line(self._number, time.time(), kind, data, b"{}", []))

    @contextmanager
    def _recording(self, run_id: str) -> Iterator[None]:
        shell = self._shell

        def keep_message(message: dict[str, Any]) -> dict[str, Any]:
            self._keep(run_id, message["header"]["msg_type"], message["content"])
            return message

        def keep_error(etype: Any, evalue: Any, traceback: list[str]) -> None:
            self._error = (etype.__name__, str(evalue), list(traceback))

        publishers = [p for p in (shell.display_pub, shell.displayhook) if hasattr(p, "register_hook")]
        show, streams = shell._showtraceback, (sys.stdout, sys.stderr)
        shell._showtraceback = keep_error
        sys.stdout = _Tee(
            streams[0], lambda text: self._keep(run_id, "stream", {"name": "stdout", "text": text})
        )
        sys.stderr = _Tee(
            streams[1], lambda text: self._keep(run_id, "stream", {"name": "stderr", "text": text})
        )
        for publisher in publishers:
            publisher.register_hook(keep_message)
        try:
            yield
        finally:
            for publisher in publishers:
                publisher.unregister_hook(keep_message)
            sys.stdout, sys.stderr = streams
            shell._showtraceback = show

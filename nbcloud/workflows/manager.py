"""The notebook that is being run, and the file that it becomes: whole at any moment, and never far behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import nbformat
from papermill.engines import NotebookExecutionManager
from papermill.iorw import write_ipynb

_SHARE = 20
"""A write may take one part in so many of the time."""
_SOON = 0.1


class SteadyManager(NotebookExecutionManager):
    """papermill's manager, whose file is replaced in one step, and not for each change that nobody waits for.

    Parameters
    ----------
    nb, output_path, log_output, progress_bar, autosave_cell_every
        As papermill's.
    """

    def __init__(
        self,
        nb: Any,
        output_path: str | None,
        log_output: bool,
        progress_bar: bool | dict[str, Any],
        autosave_cell_every: int,
    ) -> None:
        super().__init__(nb, output_path, log_output, progress_bar, autosave_cell_every)
        self._write_seconds = 0.0
        self._written = 0.0
        self._changed = False
        remote = output_path is None or "://" in output_path or output_path == "-"
        self._file = None if remote else Path(str(output_path)).absolute()

    @property
    def pause(self) -> float:
        """Seconds until the file may be written again."""
        return max(0.0, self._written + max(_SOON, _SHARE * self._write_seconds) - time.monotonic())

    def begin(self, *, anew: bool) -> None:
        """Begin, or go on with what an earlier process left: then completed cells keep what they have."""
        if anew:
            self.notebook_start()
            return
        self.set_timer()
        about = self.nb.metadata.papermill
        about["start_time"] = about.get("start_time") or self.start_time.isoformat()
        about["exception"] = None
        self.save()

    def save(self, **kwargs: Any) -> None:  # noqa: ARG002 - papermill's
        """Write the file now, or let the next call do it, when the last write was a moment ago."""
        self._changed = True
        if self.pause == 0.0:
            self.write()

    def autosave_cell(self, **kwargs: Any) -> None:  # noqa: ARG002 - papermill's
        """A message came: the file is written when it is due."""
        self._changed = True

    def write(self) -> None:
        """Write the file, if anything has changed."""
        if not self._changed:
            return
        self._changed = False
        start = time.monotonic()
        if self._file is not None:
            _replace(self._file, nbformat.writes(self.nb))
        elif self.output_path:
            write_ipynb(self.nb, self.output_path)
        self._written = time.monotonic()
        self._write_seconds = self._written - start
        self.last_save_time = self.now()

    def notebook_complete(self, **kwargs: Any) -> None:
        """The end; the file says so."""
        super().notebook_complete(**kwargs)
        self.write()


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise

"""The notebook that is being run, and the file that it becomes: whole at any moment, and never far behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from papermill.engines import NotebookExecutionManager
from papermill.iorw import papermill_io, write_ipynb

from nbcloud.runs.files import write_atomically
from nbcloud.workflows.notebook.outcome import SKIPPED

PUBLIC = 0o666
"""The mode of files for anybody, less what the user's umask takes away."""

WHOLE = "nbcloud-file:"
"""Before an absolute path that is given to papermill: what papermill itself writes is never there by half."""

_SHARE = 20
"""A write may take one part in so many of the time."""
_SOON = 0.1


class _WholeFiles:
    """Handles paths behind `WHOLE` for papermill, which writes once more when its engine is done."""

    @staticmethod
    def write(text: str, path: str) -> None:
        """Replace a file in one step."""
        write_atomically(Path(path.removeprefix(WHOLE)), text.encode(), sync=False, mode=PUBLIC)

    @staticmethod
    def pretty_path(path: str) -> str:
        """The path, for people."""
        return path.removeprefix(WHOLE)


papermill_io.register(WHOLE, _WholeFiles())


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
        if output_path is not None:
            output_path = output_path.removeprefix(WHOLE)
            nb.metadata.papermill["output_path"] = output_path
        super().__init__(nb, output_path, log_output, progress_bar, autosave_cell_every)
        self._write_seconds = 0.0
        self._written = 0.0
        self._changed = False
        # The notebook may run in another folder than that which its paths start from.
        folder = papermill_io.get_handler("local")._cwd or Path.cwd()
        elsewhere = output_path is None or is_elsewhere(output_path)
        self.file = None if elsewhere else Path(folder, str(output_path)).resolve()
        """Where it is on this machine, whatever links lead there."""
        self.skip_tags: frozenset[str] = frozenset()
        """Cells with one of these tags don't run, and keep what they have."""

    @property
    def pause(self) -> float:
        """Seconds until the file may be written again."""
        return max(0.0, self._written + max(_SOON, _SHARE * self._write_seconds) - time.monotonic())

    def notebook_start(self, *, first: int = 0, **kwargs: Any) -> None:  # noqa: ARG002 - papermill's
        """Nothing has run from the cell ``first`` on: all that will run is emptied, in one write."""
        self.set_timer()
        about = self.nb.metadata.papermill
        about.update(start_time=self.start_time.isoformat(), end_time=None, duration=None, exception=None)
        for cell in self.nb.cells[first:]:
            skipped = self.skips(cell)
            told = dict.fromkeys(("exception", "start_time", "end_time", "duration"))
            cell.metadata.papermill = NotebookNode(told, status=SKIPPED if skipped else self.PENDING)
            # papermill takes any error that it finds for one of this run.
            if cell.cell_type == "code" and (not skipped or _has_error(cell)):
                cell.execution_count, cell.outputs = None, []
        self.save()

    def skips(self, cell: Any) -> bool:
        """Whether a cell has one of the tags that are not to run."""
        return cell.cell_type == "code" and not self.skip_tags.isdisjoint(cell.metadata.get("tags", ()))

    def go_on(self) -> None:
        """Go on with what an earlier process left: completed cells keep what they have."""
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
        if self.file is not None:
            write_atomically(self.file, nbformat.writes(self.nb).encode(), sync=False, mode=PUBLIC)
        elif self.output_path:
            write_ipynb(self.nb, self.output_path)
        self._written = time.monotonic()
        self._write_seconds = self._written - start
        self.last_save_time = self.now()

    def notebook_complete(self, **kwargs: Any) -> None:
        """All of it has run, or a cell has failed; the file says so."""
        super().notebook_complete(**kwargs)
        self.write()

    def leave(self) -> None:
        """It was stopped: cells that have not run stay as they are, which papermill would call completed."""
        self.cleanup_pbar()
        about = self.nb.metadata.papermill
        about["end_time"] = self.now().isoformat()
        if self.start_time is not None:
            about["duration"] = (self.now() - self.start_time).total_seconds()
        self._changed = True
        self.write()


def is_elsewhere(path: str) -> bool:
    """Whether what papermill takes for a path is no file of this machine."""
    return "://" in path or path == "-"


def _has_error(cell: Any) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)

"""A whole notebook in one session of a cluster, by papermill's own client on top of a run's journal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.log import logger

from nbcloud.clusters.prices import hourly
from nbcloud.dispatch.identity import named_after
from nbcloud.dispatch.kernel import CloudKernel
from nbcloud.errors import NbcloudError, RunCancelled, RunError, RunPruned, RunTimeout
from nbcloud.runs.record import Run, RunState
from nbcloud.workflows.claims import claimed
from nbcloud.workflows.notebook import beginning
from nbcloud.workflows.notebook.checkpoints import forget, is_tagged, keep
from nbcloud.workflows.notebook.client import CloudClient
from nbcloud.workflows.notebook.manager import SteadyManager
from nbcloud.workflows.notebook.options import (
    NotebookOptions,
    check_language,
    check_options,
    check_tags,
)
from nbcloud.workflows.notebook.outcome import is_completed, is_executed, raised, source_of
from nbcloud.workflows.notebook.record import NotebookRecorder, new_run
from nbcloud.workflows.notebook.stopping import Stopping

_WRITE_SECONDS = 0.5
"""Between two writes of the file while a cell runs, if they are quick."""


class _Client(PapermillNotebookClient):
    """papermill's client, which leaves what is completed and writes the file while a cell runs."""

    nb_man: SteadyManager
    kc: CloudClient
    stopping: Stopping
    cloud_kernel: CloudKernel
    run_id: str

    def papermill_execute_cells(self) -> None:
        """Run the cells that are not completed, up to the first that fails."""
        for index, cell in enumerate(self.nb.cells):
            if is_completed(cell):
                self._hear_again(index, cell)
                continue
            self.nb_man.cell_start(cell, index)
            try:
                self.stopping.check()
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self._failed(index, error)
                break
            except (CellTimeoutError, RunError) as error:
                self._ended_by(index, self.stopping.why or error)
            self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
            if is_tagged(cell) and self.cloud_kernel.session is not None:
                keep(self.nb_man, index, self.cloud_kernel.session, self.run_id)

    def _hear_again(self, index: int, cell: Any) -> None:
        """What a cell said that an earlier process has heard: its widgets and displays may change yet."""
        if not is_executed(cell) or not self.kc.sent:
            return
        if self.kc.restored:
            self.kc.restored -= 1
            return
        self.kc.replies = False  # the kernel has had them
        with contextlib.suppress(CellExecutionError):
            self.execute_cell(deepcopy(cell), index)  # the file has what it showed
        self.kc.replies = True
        self.nb.cells[index] = cell

    def _ended_by(self, index: int, error: Exception) -> NoReturn:
        """A cell ended with what its code did not raise."""
        # Who stops a notebook leaves the cell as one that runs: it may be gone on with.
        if not isinstance(error, RunCancelled):
            sentence, name = str(error).splitlines()[0], type(error).__name__
            told = new_output("error", ename=name, evalue=sentence, traceback=[f"{name}: {sentence}"])
            self.nb.cells[index].outputs.append(told)
            self._failed(index, error)
        raise error

    def _failed(self, index: int, error: Exception) -> None:
        cell = self.nb.cells[index]
        self.nb_man.cell_exception(cell, cell_index=index, exception=error)
        self.nb_man.cell_complete(cell, cell_index=index)

    async def async_execute_cell(self, *args: Any, **kwargs: Any) -> Any:
        """Run a cell, and leave none of nbclient's tasks behind, which forgets them when a cell is lost."""
        before = asyncio.all_tasks()
        try:
            return await super().async_execute_cell(*args, **kwargs)
        finally:
            left = asyncio.all_tasks() - before
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    execute_cell = run_sync(async_execute_cell)

    async def _async_poll_kernel_alive(self) -> None:
        """Nothing to poll: a run that is lost says so. Meanwhile the file is brought up to date."""
        while True:
            await asyncio.sleep(max(_WRITE_SECONDS, self.nb_man.pause))
            if self.nb_man.autosave_cell_every:
                self.nb_man.write()


def execute(
    manager: SteadyManager,
    kernel_name: str,
    *,
    input_path: str = "",
    execution_timeout: int | None = None,
    start_timeout: int = 60,  # noqa: ARG001 - papermill's; a cluster's start tells how it goes on by itself
    **options: Any,
) -> Any:
    """Run a notebook, and return it with its outputs.

    Parameters
    ----------
    manager : SteadyManager
    kernel_name : str
        Of the notebook.
    input_path, execution_timeout, start_timeout
        As papermill's.
    **options
        The fields of `NotebookOptions`, and whatever nbclient takes: ``timeout``, ``allow_errors``, …

    Raises
    ------
    RunError
        When the session was lost or stopped; the file has all that came before.
    UsageError
        For a notebook of another language, or an option that nobody knows.
    """
    check_language(manager.nb, kernel_name)
    ours = {key: options.pop(key) for key in [*options] if key in NotebookOptions.__dataclass_fields__}
    check_options(options)
    options["timeout"] = execution_timeout or options.get("timeout")
    asked = NotebookOptions(**ours)
    manager.skip_tags = frozenset([asked.skip_tags] if isinstance(asked.skip_tags, str) else asked.skip_tags)
    recorder = NotebookRecorder()
    path = str(manager.file or Path(manager.output_path or recorder.run.id).absolute())
    check_tags(manager.nb, manager.skip_tags)
    kernel = CloudKernel(named_after(path, 3), asked.of_cells(), recorder, input_path, asked.folder)
    with claimed(path), _left_whole(manager), _closing(kernel):
        left = asked.resume and (beginning.is_left(kernel, manager) or beginning.restore(kernel, manager))
        _begin_record(recorder, manager, new_run(manager, asked, input_path), left=left)
        kernel.seed = recorder.run.extra.get("seed")
        with _on_record(manager, recorder), _watched(kernel, asked.stopping):
            if left:
                client = beginning.go_on(kernel, manager)
            else:
                client = beginning.start(kernel, manager, again=asked.resume)
            _place(kernel, recorder)
            asked.stopping.begun()
            notebook = _Client(manager, km=client, kernel_name=kernel_name, log=logger, **options)
            notebook.stopping, notebook.cloud_kernel, notebook.run_id = (
                asked.stopping,
                kernel,
                recorder.run.id,
            )
            notebook.execute()
        # Before its session ends: who is killed in between goes on with it, and runs no cell twice.
        manager.notebook_complete()
        forget(manager)
    return manager.nb


@contextlib.contextmanager
def _left_whole(manager: SteadyManager) -> Iterator[None]:
    """Whatever ends the work inside, the file tells how far it came."""
    try:
        yield
    except BaseException:
        manager.leave()
        raise


def _begin_record(recorder: NotebookRecorder, manager: SteadyManager, run: Run, *, left: bool) -> None:
    """Go on with the record of what is ``left``, or begin one."""
    about, restored = manager.nb.metadata.papermill, beginning.restored_in(manager)
    if left and recorder.go_on(str(about.get("run")), restored.get("messages", 0)):
        return
    recorder.start(run, source_of(manager.nb), behind=str(about.get("run") or "") if restored else "")
    if restored:
        about["restored"]["messages"] = recorder.count


def _place(kernel: CloudKernel, recorder: NotebookRecorder) -> None:
    """Put on record where it runs."""
    session = kernel.session
    assert session is not None
    info = session.link.info
    recorder.place(
        cluster=info.name,
        cluster_id=info.id,
        session=session.name,
        extra={**recorder.run.extra, "price": hourly(info, session.worker_names)},
    )


@contextlib.contextmanager
def _closing(kernel: CloudKernel) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(NbcloudError):  # it is gone already, and that was told
            kernel.close()


@contextlib.contextmanager
def _watched(kernel: CloudKernel, stopping: Stopping) -> Iterator[None]:
    """Its cells may be stopped from another thread, and none goes on behind this."""
    stopping.watch(kernel)
    try:
        yield
    finally:
        stopping.watch(None)
        with contextlib.suppress(NbcloudError):
            kernel.withdraw()


@contextlib.contextmanager
def _on_record(manager: SteadyManager, recorder: NotebookRecorder) -> Iterator[None]:
    """The end of what runs inside is put on record."""
    manager.nb.metadata.papermill["run"] = recorder.run.id
    try:
        yield
    except BaseException as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        recorder.finish(_end_by(error), None, getattr(error, "message", first))
        raise
    else:
        found = raised(manager.nb)
        recorder.finish(RunState.FAILED if found else RunState.DONE, found, "")
    finally:
        recorder.close()


def _end_by(error: BaseException) -> RunState:
    """How a notebook ended that this ended."""
    match error:
        case KeyboardInterrupt() | RunCancelled() | RunPruned():
            return RunState.CANCELLED
        case CellTimeoutError() | RunTimeout():
            return RunState.TIMEOUT
        case RunError():
            return RunState.LOST
        case _:
            return RunState.FAILED

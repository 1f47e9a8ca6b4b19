"""A whole notebook in one session of a cluster, by papermill's own client on top of a run's journal."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.log import logger

from nbcloud.clusters.prices import hourly
from nbcloud.config import parse_bytes
from nbcloud.dispatch.identity import named_after
from nbcloud.dispatch.kernel import CloudKernel
from nbcloud.dispatch.options import CellOptions
from nbcloud.errors import NbcloudError, RunCancelled, RunError, RunLost, RunTimeout, UsageError
from nbcloud.runs import experiments
from nbcloud.runs.record import Run, RunState
from nbcloud.workflows.client import CloudClient
from nbcloud.workflows.manager import SteadyManager
from nbcloud.workflows.outcome import is_completed, raised
from nbcloud.workflows.record import NotebookRecorder
from nbcloud.workflows.stopping import Stopping

_WRITE_SECONDS = 0.5
"""Between two writes of the file while a cell runs, if they are quick."""


@dataclass(frozen=True)
class NotebookOptions:
    """Where and as what a notebook runs.

    Attributes
    ----------
    cluster : str, optional
        Its name, a profile or an address; the default cluster otherwise, which is started when it is not up.
    cpus, memory, gpus : optional
        What the session is to hold; memory as ``"16GiB"`` or in bytes.
    name, tags, experiment : optional
        For the record; the experiment that ``nbcloud.set_experiment`` or the settings say otherwise.
    resume : bool
        Go on behind the cells that are completed, in the session that an earlier process left.
    stopping : Stopping, optional
        Who may stop it from another thread.
    """

    cluster: str | None = None
    cpus: float | None = None
    memory: str | int | None = None
    gpus: int | None = None
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    experiment: str = ""
    resume: bool = False
    stopping: Stopping = field(default_factory=Stopping)

    def of_cells(self) -> CellOptions:
        """What the session is asked for."""
        memory = parse_bytes(self.memory) if isinstance(self.memory, str) else self.memory
        return CellOptions(cluster=self.cluster, cpus=self.cpus, memory=memory, gpus=self.gpus)


class _Client(PapermillNotebookClient):
    """papermill's client, which leaves what is completed and writes the file while a cell runs."""

    nb_man: SteadyManager
    stopping: Stopping

    def papermill_execute_cells(self) -> None:
        """Run the cells that are not completed, up to the first that fails."""
        for index, cell in enumerate(self.nb.cells):
            if is_completed(cell):
                continue
            self.nb_man.cell_start(cell, index)
            # Who stops it here leaves the cell as one that runs: nothing of its own has ended it.
            self.stopping.check()
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self._failed(index, error)
                break
            except (CellTimeoutError, RunLost) as error:
                sentence, name = str(error).splitlines()[0], type(error).__name__
                told = new_output("error", ename=name, evalue=sentence, traceback=[f"{name}: {sentence}"])
                self.nb.cells[index].outputs.append(told)
                self._failed(index, error)
                raise
            self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)

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
    _check_language(manager.nb, kernel_name)
    ours = {key: options.pop(key) for key in [*options] if key in NotebookOptions.__dataclass_fields__}
    _check_options(options)
    options["timeout"] = execution_timeout or options.get("timeout")
    asked = NotebookOptions(**ours)
    recorder = NotebookRecorder()
    path = str(Path(manager.output_path or recorder.run.id).absolute())
    kernel = CloudKernel(named_after(path, 3), asked.of_cells(), recorder, input_path)
    try:
        with _closing(kernel):
            left = asked.resume and kernel.reopen()
            if not left or not recorder.go_on(str(manager.nb.metadata.papermill.get("run"))):
                recorder.start(_run_of(manager, asked, input_path))
            with _on_record(manager, recorder), _watched(kernel, asked.stopping):
                client = _gone_on_with(kernel, manager) if left else _started(kernel, manager, asked)
                _place(kernel, recorder)
                notebook = _Client(manager, km=client, kernel_name=kernel_name, log=logger, **options)
                notebook.stopping = asked.stopping
                notebook.execute()
            # Before its session ends: who is killed in between goes on with it, and runs no cell twice.
            manager.notebook_complete()
    except BaseException:
        manager.leave()
        raise
    return manager.nb


def _started(kernel: CloudKernel, manager: SteadyManager, asked: NotebookOptions) -> CloudClient:
    """The client of a new kernel."""
    if asked.resume:
        logger.warning("The session of %s is gone: all of it runs again.", manager.output_path)
    manager.notebook_start()
    kernel.start(lambda text: logger.info("%s …", text))
    for note in kernel.notes:
        logger.warning("%s", note)
    return CloudClient(kernel)


def _gone_on_with(kernel: CloudKernel, manager: SteadyManager) -> CloudClient:
    """The client of a kernel that an earlier process left.

    A session runs the cells of one notebook, in its order: so the place of a run tells its cell.
    """
    manager.go_on()
    client = CloudClient(kernel)
    runs = kernel.runs()
    completed = filter(is_completed, manager.nb.cells)
    client.count = sum(cell.get("execution_count") is not None for cell in completed)
    client.sent = runs[client.count :]
    for run_id in runs[: client.count]:
        kernel.attach(run_id).wait()  # for the record: the file has what they said
    return client


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


def _run_of(manager: SteadyManager, asked: NotebookOptions, input_path: str) -> Run:
    parameters = json.loads(json.dumps(manager.nb.metadata.papermill.get("parameters", {}), default=repr))
    cells = asked.of_cells()
    return Run(
        kind="notebook",
        name=asked.name or Path(input_path or "notebook").stem,
        notebook=str(input_path or ""),
        tags=dict(asked.tags),
        experiment=asked.experiment or experiments.current(),
        resources={"cpus": cells.cpus, "memory": cells.memory, "gpus": cells.gpus},
        extra={"parameters": parameters, "output": manager.output_path or ""},
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
        stopping.forget(kernel)
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
        case KeyboardInterrupt() | RunCancelled():
            return RunState.CANCELLED
        case CellTimeoutError() | RunTimeout():
            return RunState.TIMEOUT
        case RunError():
            return RunState.LOST
        case _:
            return RunState.FAILED


def _check_language(notebook: Any, kernel_name: str) -> None:
    metadata = notebook.metadata
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    if (language or "python").lower() not in {"python", "ipython"}:
        raise UsageError(
            f"The notebook is written for {language} (kernel {kernel_name!r}), and sessions are of Python.",
            "Run it with papermill's own engine: papermill IN OUT",
        )


def _check_options(options: dict[str, Any]) -> None:
    """Refuse what neither nbcloud nor nbclient knows."""
    known = [*NotebookOptions.__dataclass_fields__, *_Client.class_trait_names()]
    known += ["execution_timeout", "autosave_cell_every"]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known[:7])}."
            raise UsageError(f"The engine nbcloud has no option {option!r}.", hint)

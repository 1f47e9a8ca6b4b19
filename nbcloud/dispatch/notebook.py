"""A notebook on its way to clusters: who it is, and how a cell of it becomes a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud import secret_values
from nbcloud.cells.analysis import CellNames, Required, analyze
from nbcloud.clusters.base import Progress, silent
from nbcloud.clusters.prices import hourly
from nbcloud.config import settings
from nbcloud.dispatch.identity import identify
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import Recorder
from nbcloud.dispatch.run import CloudRun
from nbcloud.dispatch.sessions import Sessions
from nbcloud.errors import NbcloudError, NotPicklable, UsageError
from nbcloud.runs import experiments
from nbcloud.runs.owners import process_mark
from nbcloud.runs.record import Run
from nbcloud.sessions.client.handles import Handle

if TYPE_CHECKING:
    from nbcloud.sessions.client.session import Limits, Parcel, Session

_SETTLE_SECONDS = 5.0


class Undefined(UsageError, NameError):
    """A cell needs a name that nobody has; carries its place in the cell."""


def refuse_undefined(lacking: Sequence[Required]) -> None:
    """Raise Undefined for the first of the names that a cell needs and nobody has."""
    for first in lacking:
        raise Undefined(
            f"name '{first.name}' is not defined",
            lineno=first.lineno,
            column=first.col_offset,
            name=first.name,
        )


def refuse_stuck(refused: Mapping[str, Exception], certain: Set[str]) -> None:
    """Raise NotPicklable for a name that a cell certainly needs and that can't travel."""
    for name, error in refused.items():
        if name in certain:
            path, reason = getattr(error, "path", ""), getattr(error, "reason", str(error))
            raise NotPicklable(
                f"{name} can't travel to the cluster: {path or name} can't be pickled ({reason}).",
                "Make it in the cell itself, or leave that part out: "
                f"%%cloud cells that don't use {name} still run.",
                path=path,
                reason=reason,
            )


class Notebook:
    """What one notebook does on clusters.

    Parameters
    ----------
    namespace : mapping
        Its variables.
    shell : object, optional
        Its IPython shell.
    """

    def __init__(self, namespace: MutableMapping[str, Any], shell: Any = None) -> None:
        self.namespace = namespace
        self.shell = shell
        self.identity = identify(namespace)
        self.recorder = Recorder()
        self.runs: dict[str, CloudRun] = {}
        self.local_cells = 0
        """How many cells have run in the notebook's own kernel, and may have changed its values."""
        self._told: list[str] = []
        self.sessions = Sessions(
            self.identity, namespace, shell, moment=lambda: self.local_cells, tell=self._told.append
        )
        self._in_background: list[CloudRun] = []

    def limits(self) -> Limits:
        """Sizes up to which results come home."""
        from nbcloud.sessions.client.session import Limits

        return Limits(settings().home_limit, settings().out_limit)

    def told(self) -> list[str]:
        """Sentences that the user must read with the next cell."""
        told = [*self._told]
        self._told.clear()
        return told

    def close(self) -> None:
        """End with the kernel of the notebook: what came is on record, what runs goes on."""
        self.recorder.close()

    def submit(
        self,
        code: str,
        options: CellOptions,
        *,
        count: int = 1,
        header: dict[str, Any] | None = None,
        cell_id: str = "",
        progress: Progress = silent,
        prepare: Callable[[CloudRun], None] | None = None,
    ) -> tuple[CloudRun, Session]:
        """Send a cell.

        Parameters
        ----------
        code : str
            The cell's text, without the ``%%cloud`` line.
        options : CellOptions
        count : int
            The cell's number in the notebook.
        header : dict, optional
            Header of the notebook's own execute request.
        prepare : callable, optional
            Is given the run before anything can come of it.

        Raises
        ------
        Undefined
            When the cell needs a name that nobody has; nothing was sent.
        NotPicklable
            When a value that the cell certainly needs can't travel; nothing was sent.
        """
        cell = analyze(code)
        self._check_handles(cell)
        session = self.sessions.of_cell(options, progress)
        self._check_names(cell, session, options)
        parcel = self._pack(cell, session, options)
        run = CloudRun(
            session.link, self.record(code, options, session, parcel, count, cell_id), self.recorder
        )
        run.session = session
        run.refused = parcel.refused

        def collect() -> dict[str, Any]:
            end, buffers = run.end
            if "names" in end:
                session.receive(end["names"], buffers, run.id)
            return {name: self.namespace[name] for name in options.outputs if name in self.namespace}

        if options.background:
            run.collect = collect
            self._in_background.append(run)
        if prepare is not None:
            prepare(run)
        self.recorder.begin(run.record, str(Path.cwd()))
        session.link.listen(run.id, run.listen)
        self.runs[run.id] = run
        try:
            self.send(run, session, cell, parcel, code, options, count, header)
        except KeyboardInterrupt:
            run.withdraw()
            raise
        return run, session

    def collect(self) -> None:
        """Bind the ``-o`` names of background runs that have ended; for the thread that runs cells."""
        ended = [run for run in self._in_background if run.done()]
        self._in_background = [run for run in self._in_background if run not in ended]
        for run in ended:
            try:
                run.values()
            except NbcloudError as error:
                self._told.append(f"What run {run.id} left could not be brought here: {error}")

    def _check_handles(self, cell: CellNames) -> None:
        """Before a cluster is started for a cell that can't do without what is gone."""
        for required in cell.required:
            value = self.namespace.get(required.name)
            if isinstance(value, Handle):
                value.check()

    def _check_names(self, cell: CellNames, session: Session, options: CellOptions) -> None:
        refuse_undefined(session.undefined(cell))
        for name in options.inputs:
            if name not in self.namespace and name not in session.names:
                raise UsageError(f"-i {name}: the notebook has no variable {name!r}.")

    def _pack(self, cell: CellNames, session: Session, options: CellOptions) -> Parcel:
        parcel = session.pack(cell.reads | set(options.inputs))
        certain = {required.name for required in cell.required} | set(options.inputs)
        refuse_stuck(parcel.refused, certain - session.names)
        return parcel

    def record(
        self, code: str, options: CellOptions, session: Session, parcel: Parcel, count: int, cell_id: str
    ) -> Run:
        """The record of a cell that is about to be sent."""
        info = session.link.info
        return Run(
            name=options.name,
            code=code,
            notebook=self.identity.path,
            cell_id=cell_id,
            execution_count=count,
            cluster=info.name,
            cluster_id=info.id,
            session=session.name,
            inputs=parcel.records,
            resources={
                "cpus": options.cpus,
                "memory": options.memory,
                "gpus": options.gpus,
                "workers": options.workers,
                "timeout": options.timeout,
            },
            tags=options.tags,
            experiment=experiments.current(),
            extra={"client": process_mark(), "price": hourly(info, session.worker_names)},
        )

    def send(
        self,
        run: CloudRun,
        session: Session,
        cell: CellNames,
        parcel: Parcel,
        code: str,
        options: CellOptions,
        count: int,
        header: dict[str, Any] | None,
        params: Sequence[str] = (),
    ) -> None:
        """Send a run's request; once more, when its session turns out to lack values."""
        from nbcloud.sessions.messages import execute_frames

        request, buffers = session.request(
            run.id,
            cell,
            parcel,
            count=count,
            out=options.outputs,
            auto=not options.background,
            limits=self.limits(),
            secret_values=secret_values.known(cell.secrets),
            cache=hashlib.blake2b(code.encode(), digest_size=16).hexdigest() if options.cache else "",
            params=params,
        )

        def again(hashes: list[str]) -> None:
            session.missing(hashes, parcel)
            anew = self._pack(cell, session, options)
            self.send(run, session, cell, anew, code, options, count, header, params)

        run.again = again
        run.sent += 1
        if options.background:
            run.on_missing = again
        frames = execute_frames(code, request, buffers, header)
        session.link.run(
            session.worker if not session.workers else "",
            after=self.recorder.wake,
            run=run.id,
            session=session.id,
            timeout=options.timeout,
            **frames,
        )
        session.sent(parcel)

"""A notebook on its way to clusters: who it is, its sessions, and how a cell of it becomes a run."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud import secret_values
from nbcloud.cells.analysis import CellNames, analyze
from nbcloud.clusters.base import Progress, silent
from nbcloud.clusters.prices import hourly
from nbcloud.config import settings
from nbcloud.dispatch.gang import check_workers, gang_name, session_name
from nbcloud.dispatch.identity import identify, process_mark
from nbcloud.dispatch.links import connect
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import Recorder
from nbcloud.dispatch.run import CloudRun
from nbcloud.errors import ClusterError, ClusterNotFound, NbcloudError, NotPicklable, UsageError
from nbcloud.runs.record import Run
from nbcloud.sessions.client.handles import Handle
from nbcloud.wording import counted, size_text

if TYPE_CHECKING:
    from nbcloud.sessions.client.link import Link
    from nbcloud.sessions.client.session import Limits, Parcel, Session

_SETTLE_SECONDS = 5.0


class Undefined(UsageError, NameError):
    """A cell needs a name that nobody has; carries its place in the cell."""


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
        self.on_outside: Callable[[Session, list[dict[str, Any]]], None] | None = None
        self._sessions: dict[tuple[str, str], Session] = {}
        self._used: dict[tuple[str, str], Session] = {}
        self._doubted: dict[str, Future[Any]] = {}
        """Sessions that may be gone, and the question which there are."""
        self._told: list[str] = []
        self._in_background: list[CloudRun] = []

    # Sessions

    def limits(self) -> Limits:
        """Sizes up to which results come home."""
        from nbcloud.sessions.client.session import Limits

        return Limits(settings().home_limit, settings().out_limit)

    def session(self, options: CellOptions, progress: Progress = silent) -> Session:
        """The session of a cell: found, or started."""
        name = session_name(self.identity.session, options)
        if options.fresh:
            name = f"{name}-fresh-{secrets.token_hex(3)}"
        self._settle_doubts()
        used = self._used.get((options.cluster or settings().cluster, name))
        if used is not None and not used.lost and not used.link.lost:
            self._check_resources(used, options)
            return used
        try:
            link = connect(options.cluster, progress=progress)
        except ClusterNotFound as error:
            if used is not None and "names" in error.data:
                raise _ended(used.link.info.name) from None
            raise
        known = self._sessions.get((link.info.id, name))
        if known is not None and not known.lost and not link.lost:
            self._check_resources(known, options)
        else:
            before = next((old for key, old in self._sessions.items() if key[1] == name and old.lost), None)
            known = self._open(link, name, options, progress)
            self._introduce(known, before)
            self._told += link.skew
            link.skew = []
        self._used[options.cluster or settings().cluster, name] = known
        return known

    def _open(self, link: Link, name: str, asked: CellOptions | None, progress: Progress) -> Session:
        """Open a session; one that exists as it is, when nothing is asked of it."""
        from nbcloud.sessions.client.session import Session

        options = asked or CellOptions(session=name)
        ask = secrets.token_hex(8)
        try:
            facts = link.ask(
                "open",
                ask=ask,
                timeout=None,
                phase=progress,
                name=name,
                notebook=self.identity.path,
                resources=options.resources,
                memory=options.memory,
                workers=options.workers or 0,
                ephemeral=options.fresh,
                lasting=self.identity.lasting or options.session is not None,
            )
            hidden = getattr(self.shell, "user_ns_hidden", None)
            session = Session(
                link, facts, self.namespace, hidden=hidden, shell=self.shell, moment=lambda: self.local_cells
            )
            if asked is not None:
                self._check_resources(session, asked)
        except BaseException:  # an interrupt: else the session would get what nobody waits for, and keep it
            link.withdraw(ask)
            raise
        link.listen(session.id, lambda message: self._of_session(session, message))
        for key in [key for key in self._sessions if key[1] == name]:
            del self._sessions[key]
        self._sessions[link.info.id, name] = session
        return session

    def _introduce(self, session: Session, before: Session | None) -> None:
        """Have the next cell say what its session has, or has no more."""
        if before is not None:
            self._told.append(
                f"The session {session.name!r} was lost ({before.lost}). This is a new one; "
                "variables that only it had are gone."
            )
        elif session.resumed:
            names = counted(len(session.names), "name")
            self._told.append(
                f"The session {session.name!r} still holds {names} from before: "
                f"{_some(sorted(session.names))}. To begin anew: %cloud reset"
            )

    def _check_resources(self, session: Session, options: CellOptions) -> None:
        check_workers(session, options)
        for resource, wanted in options.resources.items():
            held = session.resources.get(resource, 0)
            if held < wanted:
                flag = {"CPU": "--cpus", "MEMORY": "--memory", "GPU": "--gpus"}[resource]
                text = size_text if resource == "MEMORY" else "{:g}".format
                began = f"with {text(held)}" if held else "without"
                raise UsageError(
                    f"{flag} asks for {text(wanted)}, and the session {session.name!r} was started {began}.",
                    "Name another session (-s NAME), use a one-off (--fresh), or start it anew: %cloud reset",
                )

    def _of_session(self, session: Session, message: dict[str, Any]) -> None:
        match message["op"]:
            case "session_lost" | "cluster_lost":
                session.lost = session.lost or message["why"]
                session.link.forget(session.id)
            case "reconnected" if message["why"]:
                session.lost = session.lost or message["why"]
                session.link.forget(session.id)
            case "reconnected":  # to a journal that knew nothing of us: it may know nothing of the session
                self._doubted[session.id] = session.link.ask_soon("sessions")
            case "outside":
                if self.on_outside is not None:
                    import json

                    self.on_outside(session, [json.loads(line) for line in message["lines"].splitlines()])

    def _settle_doubts(self) -> None:
        """Find out which sessions are there after a connection was lost for long."""
        for identity, asked in [*self._doubted.items()]:
            with contextlib.suppress(NbcloudError, TimeoutError):
                alive = {facts["id"] for facts in asked.result(_SETTLE_SECONDS)}
                for session in self._sessions.values():
                    if session.id == identity and identity not in alive:
                        session.lost = session.lost or "it ended while the connection to its cluster was lost"
            del self._doubted[identity]

    def told(self) -> list[str]:
        """Sentences that the user must read with the next cell."""
        told, self._told = self._told, []
        return told

    def find(self, name: str | None = None) -> Session | None:
        """A session of this notebook that is open: the one named, or the default one."""
        wanted = name or self.identity.session
        return next((s for key, s in self._sessions.items() if key[1] == wanted and not s.lost), None)

    def find_gang(self) -> Session | None:
        """The sessions of this notebook's cells with ``--workers``, if they live."""
        name = gang_name(self.identity.session)
        return self.find(name) or self.reopen(name)

    def open_sessions(self) -> list[Session]:
        """Sessions of this notebook that are alive as far as is known."""
        return [session for session in self._sessions.values() if not session.lost]

    def reopen(self, name: str | None = None) -> Session | None:
        """A session that this kernel has not used yet, if it lives on the default cluster."""
        wanted = name or self.identity.session
        try:
            link = connect(None, start=False)
        except ClusterError:
            return None
        if wanted not in {facts["name"] for facts in link.ask("sessions")}:
            return None
        return self._open(link, wanted, None, silent)

    def reset(self, session: Session, why: str = "it was reset") -> None:
        """End a session on purpose; the next one needs no word about it."""
        self._sessions = {key: known for key, known in self._sessions.items() if known is not session}
        session.link.forget(session.id)
        session.close()
        session.lost = why

    def abandon(self, session: Session) -> None:
        """Give up a session that does not answer; it is closed when its side of the cluster is back."""
        session.lost = "it did not answer"
        session.link.forget(session.id)
        session.link.post("close", session=session.id, ask="")

    def close(self) -> None:
        """End with the kernel of the notebook: what came is on record, what runs goes on."""
        self.recorder.close()

    # Runs

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
        session = self.session(options, progress)
        self._check_names(cell, session, options)
        parcel = self._pack(cell, session, options)
        run = CloudRun(
            session.link, self._record(code, options, session, parcel, count, cell_id), self.recorder
        )
        run.session = session
        run.refused = parcel.refused

        def collect() -> dict[str, Any]:
            end, buffers = run.end
            if "names" in end:
                session.receive(end["names"], buffers)
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
        lacking = session.undefined(cell)
        if lacking:
            first = lacking[0]
            raise Undefined(
                f"name '{first.name}' is not defined",
                lineno=first.lineno,
                column=first.col_offset,
                name=first.name,
            )
        for name in options.inputs:
            if name not in self.namespace and name not in session.names:
                raise UsageError(f"-i {name}: the notebook has no variable {name!r}.")

    def _pack(self, cell: CellNames, session: Session, options: CellOptions) -> Parcel:
        parcel = session.pack(cell.reads | set(options.inputs))
        certain = {required.name for required in cell.required} | set(options.inputs)
        for name, error in parcel.refused.items():
            if name in certain and name not in session.names:
                path, reason = getattr(error, "path", ""), getattr(error, "reason", str(error))
                raise NotPicklable(
                    f"{name} can't travel to the cluster: {path or name} can't be pickled ({reason}).",
                    "Make it in the cell itself, or leave that part out: "
                    f"%%cloud cells that don't use {name} still run.",
                    path=path,
                    reason=reason,
                )
        return parcel

    def _record(
        self, code: str, options: CellOptions, session: Session, parcel: Parcel, count: int, cell_id: str
    ) -> Run:
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
        )

        def again(hashes: list[str]) -> None:
            session.missing(hashes, parcel)
            anew = self._pack(cell, session, options)
            self.send(run, session, cell, anew, code, options, count, header)

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


def _ended(cluster: str) -> ClusterNotFound:
    return ClusterNotFound(
        f"The cluster {cluster!r} of this notebook is gone: it was taken down, or ended by itself.",
        f"Type: %cloud up {cluster}",
    )


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, …" if len(names) > most else shown

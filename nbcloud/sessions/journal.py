"""The scheduler's side: sessions and where they live, runs and their journals, and everyone who reads them.

A scheduler plugin. Clients and hosts (workers) each keep a channel to it, and all that passes between a
notebook and a kernel passes through here, so that whatever reaches the scheduler reaches the sessions.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.comm import Comm

import nbcloud
from nbcloud.config import private_dir
from nbcloud.sessions.channel import PROTOCOL, Channel
from nbcloud.sessions.placement import Placement
from nbcloud.sessions.runlog import FINISHED, STARTED, RunLog

PLUGIN = "nbcloud"
_BATCH = 2**19
_KEPT_RUNS = 1000
_KEPT_ENDS = 2**26
_GONE_SECONDS = 60.0
_SIGN_SECONDS = 3.0
_SILENCE = 10.0


@dataclass
class _Host:
    """One worker that holds kernels."""

    worker: str
    facts: dict[str, Any]
    channel: Channel


@dataclass
class _Session:
    """One kernel, wherever it is. Its name is free again when it is lost, its id never is."""

    id: str
    name: str
    notebook: str
    resources: dict[str, float]
    created: float
    state: str = "starting"
    why: str = ""
    host: _Host | None = None
    kernel_pid: int = 0
    names: set[str] = field(default_factory=set)
    queue: deque[_Run] = field(default_factory=deque)
    active: _Run | None = None
    clients: set[str] = field(default_factory=set)
    waiting: list[tuple[_Client, str]] = field(default_factory=list)
    log: RunLog = field(default_factory=lambda: RunLog(None, 2**22))
    ephemeral: bool = False
    """Ends with its first run."""
    lasting: bool = True
    """Outlives the clients that use it."""

    def facts(self) -> dict[str, Any]:
        """What a client is told."""
        return {
            "id": self.id,
            "name": self.name,
            "notebook": self.notebook,
            "state": self.state,
            "why": self.why,
            "worker": self.host.worker if self.host else "",
            "host": self.host.facts["host"] if self.host else "",
            "spool": self.host.facts["spool"] if self.host else "",
            "token": self.host.facts["token"] if self.host else "",
            "kernel_pid": self.kernel_pid,
            "resources": self.resources,
            "created": self.created,
            "names": sorted(self.names),
            "active": self.active.id if self.active else "",
            "queued": [run.id for run in self.queue],
        }


@dataclass
class _Run:
    """One run and its journal."""

    id: str
    session: str
    request: dict[str, Any]
    log: RunLog
    created: float
    client: str
    state: str = "queued"
    why: str = ""
    exit_code: int | None = None
    incomplete: bool = False
    """Its session lacks values, and its client was asked for them."""
    end: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """What a client is told."""
        return {
            "id": self.id,
            "session": self.session,
            "state": self.state,
            "why": self.why,
            "exit_code": self.exit_code,
            "created": self.created,
            "messages": self.log.count,
        }


class _Client:
    """One notebook kernel, command line or server that is connected."""

    def __init__(self, identity: str, journal: Journal) -> None:
        self.id = identity
        self.channel = Channel(lambda message: journal.from_client(self, message))
        self.readers: dict[str, asyncio.Task[None]] = {}


class Journal(SchedulerPlugin):
    """See the module.

    Parameters
    ----------
    directory : str or None
        Where journals of runs are kept; None for a temporary directory.
    memory : int
        Bytes of messages kept in memory for each run.
    """

    name = PLUGIN

    def __init__(self, directory: str | None, memory: int) -> None:
        self._directory = directory
        self._memory = memory

    async def start(self, scheduler: Scheduler) -> None:
        """Start to serve on ``scheduler``."""
        self.scheduler = scheduler
        self.directory = private_dir(Path(self._directory or tempfile.mkdtemp(prefix="nbcloud-journal-")))
        self.hosts: dict[str, _Host] = {}
        self.clients: dict[str, _Client] = {}
        self.sessions: dict[str, _Session] = {}
        """By id."""
        self.runs: OrderedDict[str, _Run] = OrderedDict()
        self.last_active = time.time()
        self._asks: dict[str, tuple[_Client, str]] = {}
        """Questions to sessions: who asked, and which session."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self.placement = Placement(scheduler)
        scheduler.handlers["nbcloud_host"] = self.serve_host
        scheduler.handlers["nbcloud_client"] = self.serve_client
        scheduler.extensions[PLUGIN] = self
        self._spawn(self._watch())

    async def _watch(self) -> None:
        """Ask hosts of runs for a sign of life, and tell those who wait when there is none."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_SIGN_SECONDS)
            if time.monotonic() - before > 2 * _SIGN_SECONDS:  # it was this process that stood still
                for host in self.hosts.values():
                    host.channel.heard = time.monotonic()
            for host in self.hosts.values():
                host.channel.post({"op": "sign", "session": ""})
            for session in self.sessions.values():
                if session.active is None or session.host is None:
                    continue
                silence = time.monotonic() - session.host.channel.heard
                if silence > _SILENCE:
                    about = {"run": session.active.id, "worker": session.host.worker, "seconds": silence}
                    self._tell(session.active, {"op": "silent", **about})

    def _silent_workers(self) -> set[str]:
        now = time.monotonic()
        return {host.worker for host in self.hosts.values() if now - host.channel.heard > 2 * _SIGN_SECONDS}

    @property
    def busy(self) -> bool:
        """Whether a run is on or waits; the cluster's idle stop asks this."""
        return any(session.active or session.queue for session in self.sessions.values())

    async def close(self) -> None:
        """End with the scheduler."""
        for task in list(self._tasks):
            task.cancel()
        for client in self.clients.values():
            client.channel.abort()
        for host in self.hosts.values():
            host.channel.abort()
        for run in self.runs.values():
            run.log.close()
        await self.placement.close()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Connections

    async def serve_host(self, comm: Comm, hello: dict[str, Any]) -> None:
        """A worker's host connects, or connects again."""
        host = self.hosts.get(hello["worker"])
        if host is None or host.facts["id"] != hello["id"]:
            new = _Host(hello["worker"], hello, Channel(lambda message: self.from_host(new, message)))
            host = self.hosts[hello["worker"]] = new
        host.channel.abort()  # nothing more may come over the old connection than is told to have come
        await comm.write({"received": host.channel.received, "protocol": PROTOCOL})
        await host.channel.run(comm, hello["received"])

    async def serve_client(self, comm: Comm, hello: dict[str, Any]) -> None:
        """A client connects, or connects again."""
        client = self.clients.get(hello["id"])
        forgotten = client is None and hello["received"] > 0
        facts = {"protocol": PROTOCOL, "version": nbcloud.__version__, "forgotten": forgotten}
        if hello["protocol"] != PROTOCOL or forgotten:
            await comm.write({**facts, "received": 0})
            return
        if client is None:
            client = self.clients[hello["id"]] = _Client(hello["id"], self)
        client.channel.abort()
        await comm.write({**facts, "received": client.channel.received})
        try:
            await client.channel.run(comm, hello["received"])
        finally:
            self._spawn(self._forget(client))

    async def _forget(self, client: _Client) -> None:
        """Drop a client that does not come back; its runs go on."""
        await asyncio.sleep(_GONE_SECONDS)
        if client.channel.connected:
            return
        self.clients.pop(client.id, None)
        for reader in client.readers.values():
            reader.cancel()
        for session in list(self.sessions.values()):
            if (
                session.active is not None
                and session.active.incomplete
                and session.active.client == client.id
            ):
                self._give_up(session, session.active)
            session.clients.discard(client.id)
            if not session.lasting and not session.clients and session.active is None and not session.queue:
                self._close(session, "its notebook went away")

    def remove_worker(self, scheduler: Scheduler, worker: str, **_kwargs: Any) -> None:  # noqa: ARG002
        """A worker is gone, and its kernels with it."""
        host = self.hosts.pop(worker, None)
        if host is None:
            return
        host.channel.abort()
        for session in list(self.sessions.values()):
            if session.host is host:
                self._lose(session, "its worker is gone (killed, or lost with its machine)", None)

    # From a client

    def from_client(self, client: _Client, message: dict[str, Any]) -> None:
        """One message of a client."""
        operation, ask = message.pop("op"), message.get("ask", "")
        try:
            handler = getattr(self, f"_on_{operation}", None)
            if handler is None:
                raise LookupError(f"This cluster's nbcloud does not know {operation!r}.")
            handler(client, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must not wait for ever
            known = isinstance(error, LookupError | ValueError)
            text = str(error).strip("'") if known else repr(error)
            client.channel.post({"op": "answer", "ask": ask, "error": text})

    def _answer(self, client: _Client, message: dict[str, Any], answer: Any) -> None:
        client.channel.post({"op": "answer", "ask": message["ask"], "answer": answer})

    def _session(self, identity: str) -> _Session:
        if identity not in self.sessions:
            raise LookupError("The session is gone.")
        return self.sessions[identity]

    def _run(self, name: str) -> _Run:
        if name not in self.runs:
            raise LookupError(f"There is no run {name!r} on this cluster.")
        return self.runs[name]

    def _on_open(self, client: _Client, message: dict[str, Any]) -> None:
        """Find a session or start it; answered when its kernel is there."""
        name = message["name"]
        session = next((session for session in self.sessions.values() if session.name == name), None)
        if session is None:
            resources = message["resources"]
            refusal = self.placement.impossible(resources)
            if refusal:
                raise ValueError(refusal)
            identity = f"{name}-{secrets.token_hex(4)}"
            session = _Session(
                identity,
                name,
                message["notebook"],
                resources,
                time.time(),
                ephemeral=message["ephemeral"],
                lasting=message["lasting"],
            )
            self.sessions[identity] = session
            taken = [other.host.worker for other in self.sessions.values() if other.host]
            self._spawn(self._place(session, message["memory"], taken, self._silent_workers()))
        session.clients.add(client.id)
        if session.state == "starting":
            session.waiting.append((client, message["ask"]))
        else:
            self._answer(client, message, session.facts())

    async def _place(self, session: _Session, memory: int | None, taken: list[str], silent: set[str]) -> None:
        try:
            async for phase in self.placement.place(session.id, session.resources, memory, taken, silent):
                for client, ask in session.waiting:
                    client.channel.post({"op": "phase", "ask": ask, "text": phase})
                if session.state != "starting":
                    return
        except Exception as error:  # noqa: BLE001 - whatever Dask says is the answer
            self._lose(session, f"it could not be started: {error}", None)

    def _on_ping(self, client: _Client, message: dict[str, Any]) -> None:
        self._answer(client, message, None)

    def _on_sessions(self, client: _Client, message: dict[str, Any]) -> None:
        self._answer(client, message, [session.facts() for session in self.sessions.values()])

    def _on_runs(self, client: _Client, message: dict[str, Any]) -> None:
        self._answer(client, message, [run.facts() for run in self.runs.values()])

    def _on_run(self, client: _Client, message: dict[str, Any]) -> None:
        """Queue a run in its session; its messages go to the client from the first on."""
        session = self.sessions.get(message["session"])
        if session is None:
            self._refuse(client, message)
            return
        session.clients.add(client.id)
        path = self.directory / f"{message['run']}.jsonl"
        run = self.runs.get(message["run"])
        if run is None:
            run = _Run(
                message["run"], session.id, message, RunLog(path, self._memory), time.time(), client.id
            )
            self.runs[run.id] = run
            self._read(client, run, 0)
            session.queue.append(run)
        elif session.active is run:  # the same run again, with the values that its session had lost
            run.request, session.active = message, None
            session.queue.appendleft(run)
        self._next(session)
        self._trim()

    def _refuse(self, client: _Client, message: dict[str, Any]) -> None:
        """The session of a run was lost while the run was on its way."""
        why = "its session was lost before it began"
        end = {"state": "lost", "why": why, "exit_code": None, "content": b"", "buffers": list[bytes]()}
        client.channel.post({"op": "session_lost", "session": message["session"], "why": "it is gone"})
        client.channel.post({"op": "end", "run": message["run"], **end})

    def _on_read(self, client: _Client, message: dict[str, Any]) -> None:
        """Send a run's messages after a number, then those to come, then its end."""
        run = self._run(message["run"])
        self._answer(client, message, run.facts())
        self._read(client, run, message["after"])

    def _on_interrupt(self, client: _Client, message: dict[str, Any]) -> None:  # noqa: ARG002
        run = self._run(message["run"])
        session = self._session(run.session)
        if session.active is run and session.host:
            session.host.channel.post({"op": "interrupt", "session": session.id})
        elif run in session.queue:
            self._withdraw(session, run, "cancelled", "it was interrupted before it began")

    def _on_cancel(self, client: _Client, message: dict[str, Any]) -> None:
        """Stop a run for sure: taken from the queue, or interrupted and then killed."""
        run = self._run(message["run"])
        session = self.sessions.get(run.session)
        if session and session.active is run and session.host:
            session.host.channel.post(
                {
                    "op": "stop",
                    "session": session.id,
                    "run": run.id,
                    "state": "cancelled",
                    "why": "it was cancelled",
                }
            )
        elif session and run in session.queue:
            self._withdraw(session, run, "cancelled", "it was cancelled before it began")
        if message.get("ask"):
            self._answer(client, message, run.facts())

    def _on_kill(self, client: _Client, message: dict[str, Any]) -> None:  # noqa: ARG002
        session = self._session(message["session"])
        if session.host:
            why = {"state": message["state"], "why": message["why"]}
            session.host.channel.post({"op": "kill", "session": session.id, **why})

    def _on_close(self, client: _Client, message: dict[str, Any]) -> None:
        """End a session, and what it runs."""
        self._close(self._session(message["session"]), "it was reset")
        self._answer(client, message, None)

    def _close(self, session: _Session, why: str) -> None:
        if session.host:
            session.host.channel.post({"op": "close", "session": session.id})
        self._lose(session, why, None)

    def _on_comm(self, client: _Client, message: dict[str, Any]) -> None:
        self.last_active = time.time()
        self._relay(client, message, "comm")

    def _relay(self, client: _Client, message: dict[str, Any], operation: str) -> None:
        session = self._session(message["session"])
        session.clients.add(client.id)
        if session.host is None or session.state != "ready":
            raise LookupError(f"The session {session.name!r} is not ready: {session.why or session.state}.")
        self._asks[message["ask"]] = client, session.id
        session.host.channel.post({"op": operation, **message})

    def _on_call(self, client: _Client, message: dict[str, Any]) -> None:
        self._relay(client, message, "call")

    def _on_blob_write(self, client: _Client, message: dict[str, Any]) -> None:
        self._relay(client, message, "blob_write")

    def _on_blob_read(self, client: _Client, message: dict[str, Any]) -> None:
        self._relay(client, message, "blob_read")

    def _on_blob_drop(self, client: _Client, message: dict[str, Any]) -> None:
        self._relay(client, message, "blob_drop")

    # From a host

    def from_host(self, host: _Host, message: dict[str, Any]) -> None:
        """One message of a worker's host."""
        operation = message.pop("op")
        if operation == "answer":
            client, _ = self._asks.pop(message["ask"], (None, ""))
            if client is not None:
                client.channel.post({"op": "answer", **message})
            return
        session = self.sessions.get(message["session"])
        if session is None:
            if operation == "ready":  # Dask ran its task once more, after the session was lost
                host.channel.post({"op": "close", "session": message["session"]})
            return
        match operation:
            case "ready":
                self._ready(session, host, message)
            case "messages":
                self._keep(session, message["items"])
            case "finished":
                self._finished(session, message)
            case "lost":
                self._lose(session, message["why"], message["code"])

    def _ready(self, session: _Session, host: _Host, message: dict[str, Any]) -> None:
        session.state, session.host, session.kernel_pid = "ready", host, message["kernel_pid"]
        for client, ask in session.waiting:
            client.channel.post({"op": "answer", "ask": ask, "answer": session.facts()})
        session.waiting.clear()
        self._next(session)

    def _keep(self, session: _Session, items: list[Any]) -> None:
        """Number messages: those of a run in its journal, the others in the session's."""
        of_run: dict[str | None, list[Any]] = {}
        for run_id, when, kind, content, metadata, buffers, parent in items:
            item = (when, kind, content, metadata, buffers, b"" if run_id in self.runs else parent)
            of_run.setdefault(run_id if run_id in self.runs else None, []).append(item)
        for run_id, kept in of_run.items():
            if run_id is not None:
                self.runs[run_id].log.extend(kept)
                continue
            start = session.log.count
            session.log.extend(kept)
            _, lines = session.log.read(start, 2**30)
            for identity in session.clients:
                if identity in self.clients:
                    self.clients[identity].channel.post(
                        {"op": "outside", "session": session.id, "lines": lines}
                    )

    def _finished(self, session: _Session, message: dict[str, Any]) -> None:
        run = session.active
        if run is None or run.id != message["run"]:
            return
        if message["state"] == "missing":
            if run.client in self.clients:  # it sends the run again, with what was missing; others wait
                run.incomplete = True
                self._tell(run, {"op": "missing", "run": run.id, "content": message["content"]})
            else:
                self._give_up(session, run)
            return
        session.active = None
        if message["content"]:
            names = json.loads(message["content"]).get("names", {})
            session.names.difference_update(names.get("removed", ()))
            session.names.update(names.get("added", ()))
        run.end = {"content": message["content"], "buffers": message["buffers"]}
        self._end(run, message["state"], message["why"], message["exit_code"])
        if session.ephemeral and not session.queue:
            if session.host:
                session.host.channel.post({"op": "close", "session": session.id})
            return
        self._next(session)

    def _lose(self, session: _Session, why: str, code: int | None) -> None:
        """A session is gone for whatever reason; its runs end, its name is free."""
        if self.sessions.pop(session.id, None) is None:
            return
        session.state, session.why = "lost", why
        if session.active is not None:
            run, session.active = session.active, None
            self._end(run, "lost", why, code)
        for run in list(session.queue):
            self._withdraw(session, run, "lost", f"its session was lost before it began: {why}")
        for client, ask in session.waiting:
            client.channel.post(
                {"op": "answer", "ask": ask, "error": f"The session {session.name!r}: {why}."}
            )
        for ask in [ask for ask, (_, asked) in self._asks.items() if asked == session.id]:
            client, _ = self._asks.pop(ask)
            client.channel.post(
                {"op": "answer", "ask": ask, "error": f"The session {session.name!r}: {why}."}
            )
        for identity in session.clients:
            if identity in self.clients:
                self.clients[identity].channel.post({"op": "session_lost", "session": session.id, "why": why})
        self.placement.release(session.id)

    # Runs

    def _next(self, session: _Session) -> None:
        """Give the session its next run."""
        self.last_active = time.time()
        if (
            session.state != "ready"
            or session.active is not None
            or not session.queue
            or session.host is None
        ):
            return
        run = session.active = session.queue.popleft()
        run.state, run.incomplete = "running", False
        where = {
            "worker": session.host.worker,
            "host": session.host.facts["host"],
            "kernel_pid": session.kernel_pid,
        }
        if run.log.count == 0:
            run.log.append(STARTED, json.dumps({"session": session.id, **where}).encode())
        session.host.channel.post({"op": "execute", **run.request})
        run.request = {}

    def _give_up(self, session: _Session, run: _Run) -> None:
        """Nobody is there to send what a run lacks."""
        session.active = None
        self._end(run, "lost", "its session lacked values, and its notebook is gone", None)
        self._next(session)

    def _withdraw(self, session: _Session, run: _Run, state: str, why: str) -> None:
        session.queue.remove(run)
        self._end(run, state, why, None)

    def _end(self, run: _Run, state: str, why: str, exit_code: int | None) -> None:
        self.last_active = time.time()
        run.state, run.why, run.exit_code = state, why, exit_code
        dropped = {"dropped": run.log.dropped, "journal": run.log.failure} if run.log.dropped else {}
        content = {"state": state, "why": why, "exit_code": exit_code, **dropped}
        run.log.append(FINISHED, json.dumps(content).encode())
        run.log.close()

    def _tell(self, run: _Run, message: dict[str, Any]) -> None:
        if run.client in self.clients:
            self.clients[run.client].channel.post(message)

    def _trim(self) -> None:
        """Forget the oldest ended runs, and the values of all but the newest ends."""
        while len(self.runs) > _KEPT_RUNS:
            oldest = next((run for run in self.runs.values() if run.log.closed), None)
            if oldest is None:
                break
            del self.runs[oldest.id]
            oldest.log.remove()
        kept = 0
        for run in reversed(self.runs.values()):
            if run.end is not None:
                kept += sum(len(buffer) for buffer in run.end["buffers"])
                if kept > _KEPT_ENDS:
                    run.end = None

    # Readers

    def _read(self, client: _Client, run: _Run, after: int) -> None:
        if run.id in client.readers:
            client.readers[run.id].cancel()
        client.readers[run.id] = self._spawn(self._follow(client, run, after))

    async def _follow(self, client: _Client, run: _Run, after: int) -> None:
        """Give one client what it has not had yet, at its own pace."""
        while True:
            await run.log.grown(after)
            if run.log.count <= after:
                break
            after, lines = run.log.read(after, _BATCH)
            client.channel.post({"op": "messages", "run": run.id, "last": after, "lines": lines})
            await client.channel.light()
        end = run.end or {"content": b"", "buffers": []}
        client.channel.post({"op": "end", "run": run.id, **run.facts(), **end})
        client.readers.pop(run.id, None)

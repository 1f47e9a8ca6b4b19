"""The scheduler's side: a Dask scheduler plugin that everyone connects to.

Clients and hosts (workers) each keep a channel to it, and all that passes between a notebook and a kernel
passes through here, so that whatever reaches the scheduler reaches the sessions. What clients ask is in
``requests``, what happens to sessions and runs in ``table``, what is kept of each run in ``runlog``.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.comm import Comm

import nbcloud
from nbcloud.config import private_dir
from nbcloud.sessions.channel import PROTOCOL, Channel
from nbcloud.sessions.journal.gang import Gangs
from nbcloud.sessions.journal.members import ConnectedClient, ConnectedHost, LiveSession
from nbcloud.sessions.journal.placement import Placement
from nbcloud.sessions.journal.requests import Requests
from nbcloud.sessions.journal.table import Table

PLUGIN = "nbcloud"
_GONE_SECONDS = 60.0
_SIGN_SECONDS = 3.0
_SILENCE = 10.0
_FAREWELL_SECONDS = 0.3


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

    visited = False
    """Whether a client ever came."""

    def __init__(self, directory: str | None, memory: int) -> None:
        self._directory = directory
        self._memory = memory

    async def start(self, scheduler: Scheduler) -> None:
        """Start to serve on ``scheduler``."""
        self._tasks: set[asyncio.Task[None]] = set()
        directory = private_dir(Path(self._directory or tempfile.mkdtemp(prefix="nbcloud-journal-")))
        self._scheduler = scheduler.id
        self.placement = Placement(scheduler)
        self.table = Table(self.placement, directory, self._memory, self._spawn)
        self.gangs = Gangs(self.table)
        self._requests = Requests(self.table, self.gangs, self._silent_workers)
        self._own_directory = None if self._directory else directory
        scheduler.handlers["nbcloud_host"] = self.serve_host
        scheduler.handlers["nbcloud_client"] = self.serve_client
        scheduler.extensions[PLUGIN] = self
        self._spawn(self._watch())

    @property
    def busy(self) -> bool:
        """Whether a run is on or waits; the cluster's idle stop asks this."""
        return self.table.busy

    @property
    def last_active(self) -> float:
        """When a run was last asked for or ended, in seconds since the epoch; for the idle stop, too."""
        return self.table.last_active

    # For whoever looks after the number of workers

    def waiting(self) -> list[dict[str, float]]:
        """Dask resources of each session that has no worker yet."""
        return self.table.placement.waiting()

    def idle_seconds(self, worker: str) -> float | None:
        """For how long no session on a worker has had anything to do; None while one has, or starts."""
        coming = [self.table.sessions.get(name) for name in self.placement.given_to(worker)]
        if any(session is not None and session.state == "starting" for session in coming):
            return None
        there = [self.gangs.whole(each) for each in self._sessions_on(worker)]
        if any(session.runs or session.state == "starting" for session in there):
            return None
        return min((time.monotonic() - session.used for session in there), default=math.inf)

    def release(self, worker: str, why: str) -> None:
        """End the sessions on a worker that is about to go, and the gangs that have a member there."""
        for session in self._sessions_on(worker):
            if session.gang:
                self.gangs.close(session, why)
            else:
                self.table.close_session(session, why)

    def _sessions_on(self, worker: str) -> list[LiveSession]:
        """Sessions and members of gangs on a worker; a gang itself is nowhere."""
        sessions = [each for each in self.table.sessions.values() if not each.members]
        return [each for each in sessions if each.host is not None and each.host.worker == worker]

    async def end_sessions(self, why: str) -> None:
        """End every session, and wait until all who follow a run have heard of its end."""
        busy = self.busy
        for session in list(self.table.sessions.values()):
            self.table.lose(session, why)
        if busy:
            await asyncio.sleep(_FAREWELL_SECONDS)  # who reads a run at its worker asks here for its end
        while any(client.readers for client in self.table.clients.values()):
            await asyncio.sleep(_FAREWELL_SECONDS)

    async def close(self) -> None:
        """End with the scheduler."""
        for task in list(self._tasks):
            task.cancel()
        for client in self.table.clients.values():
            client.channel.abort()
        for host in self.table.hosts.values():
            host.channel.abort()
        for run in self.table.runs.values():
            run.log.close()
        await self.placement.close()
        if self._own_directory is not None:
            shutil.rmtree(self._own_directory, ignore_errors=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        """Ask hosts of runs for a sign of life, and tell those who wait when there is none."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(_SIGN_SECONDS)
            if time.monotonic() - before > 2 * _SIGN_SECONDS:  # it was this process that stood still
                for host in self.table.hosts.values():
                    host.channel.heard = time.monotonic()
            for host in self.table.hosts.values():
                host.channel.post({"op": "sign", "session": ""})
            for session in self.table.sessions.values():
                for host in session.hosts:
                    silence = time.monotonic() - host.channel.heard
                    if silence > _SILENCE:
                        for run in session.runs.values():
                            about = {"run": run.id, "worker": host.worker, "seconds": silence}
                            self.table.tell(run, {"op": "silent", **about})

    def _silent_workers(self) -> set[str]:
        now = time.monotonic()
        return {
            host.worker for host in self.table.hosts.values() if now - host.channel.heard > 2 * _SIGN_SECONDS
        }

    # Connections

    async def serve_host(self, comm: Comm, hello: dict[str, Any]) -> None:
        """A worker's host connects, or connects again."""
        host = self.table.hosts.get(hello["worker"])
        if host is None or host.facts["id"] != hello["id"]:
            new = ConnectedHost(hello["worker"], hello, Channel(lambda message: self.from_host(new, message)))
            host = self.table.hosts[hello["worker"]] = new
        host.channel.abort()  # nothing more may come over the old connection than is told to have come
        await comm.write({"received": host.channel.received, "protocol": PROTOCOL})
        await host.channel.run(comm, hello["received"])

    async def serve_client(self, comm: Comm, hello: dict[str, Any]) -> None:
        """A client connects, or connects again."""
        self.visited = True
        client = self.table.clients.get(hello["id"])
        forgotten = client is None and hello["received"] > 0
        facts = {"protocol": PROTOCOL, "version": nbcloud.__version__, "forgotten": forgotten}
        facts["scheduler"] = self._scheduler  # another one knows nothing of runs and sessions before it
        if hello["protocol"] != PROTOCOL or forgotten:
            await comm.write({**facts, "received": 0})
            return
        if client is None:
            client = self.table.clients[hello["id"]] = ConnectedClient(hello["id"], self._requests.receive)
        client.channel.abort()
        await comm.write({**facts, "received": client.channel.received})
        try:
            await client.channel.run(comm, hello["received"])
        finally:
            self._spawn(self._forget(client))

    async def _forget(self, client: ConnectedClient) -> None:
        """Drop a client that does not come back; its runs go on."""
        await asyncio.sleep(_GONE_SECONDS)
        if client.channel.connected:
            return
        self.table.clients.pop(client.id, None)
        for reader in client.readers.values():
            reader.cancel()
        for session in list(self.table.sessions.values()):
            self.table.abandon(session, client.id)
            session.clients.discard(client.id)
            if session.state == "starting":
                self.table.wait_no_more(session, client)
            elif not session.lasting and not session.clients and not session.runs:
                self.table.close_session(session, "its notebook went away")

    def remove_worker(self, scheduler: Scheduler, worker: str, **_kwargs: Any) -> None:  # noqa: ARG002
        """A worker is gone, and its kernels with it."""
        host = self.table.hosts.pop(worker, None)
        if host is None:
            return
        host.channel.abort()
        for session in list(self.table.sessions.values()):
            if session.host is host and not session.members:
                self._lost(session, "its worker is gone (killed, or lost with its machine)")

    def _lost(self, session: LiveSession, why: str) -> None:
        if session.gang:
            self.gangs.lost(session, why)
        else:
            self.table.lose(session, why)

    def from_host(self, host: ConnectedHost, message: dict[str, Any]) -> None:
        """One message of a worker's host."""
        operation = message.pop("op")
        if operation == "answer":
            if self.gangs.answered(message):
                return
            client, _ = self.table.asks.pop(message["ask"], (None, ""))
            if client is not None:
                client.channel.post({"op": "answer", **message})
            return
        session = self.table.sessions.get(message["session"])
        if session is None:
            if operation == "ready":  # Dask ran its task once more, after the session was lost
                why = "nobody waits for it any more"
                host.channel.post({"op": "close", "session": message["session"], "why": why})
            return
        if session.gang:
            self.gangs.from_host(session, host, operation, message)
            return
        match operation:
            case "ready":
                self.table.ready(session, host, message)
            case "begun":
                self.table.begun(session, message)
            case "messages":
                self.table.keep(session, message)
            case "missing":
                self.table.missing(session, message)
            case "usage" if message["run"] in session.runs:
                session.runs[message["run"]].usage[0] = message["usage"]
            case "end":
                self.table.ended(session, message)
            case "unknown":
                self.table.unknown(session, message["runs"])
            case "outside":
                self.table.outside(session, message["items"])
            case "lost":
                self.table.lose(session, message["why"])

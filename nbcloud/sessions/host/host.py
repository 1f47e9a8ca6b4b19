"""The worker's side: a kernel for each session, one more started ahead, and the connections to all of them.

A worker plugin. A session is claimed by a Dask task (`arrival.hold_session`) that lasts as long as the
session does and holds its Dask resources.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import psutil
from distributed import Worker, WorkerPlugin
from distributed.comm import Comm, connect

from nbcloud.sessions.channel import PROTOCOL, Channel
from nbcloud.sessions.host import nvml
from nbcloud.sessions.host.devices import Devices
from nbcloud.sessions.host.process import KernelProcess, environment
from nbcloud.sessions.host.run import frames_of
from nbcloud.sessions.host.session import HostedSession
from nbcloud.sessions.host.template import Template
from nbcloud.sessions.spool import Spool, own_directory

PLUGIN = "nbcloud"
_COLD_DELAY = 2.0
_FORK_DELAY = 0.2
_RECONNECT_SECONDS = 0.2
_PORTS = 16
_LONGEST_BASE = 103 - len("/nbcloud-1000000000/1234567-12345678/1000/k-5")  # 103 on macOS, 107 on Linux


def _for_sockets() -> Path:
    """A folder for temporary files whose path is short enough for sockets in it."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - private folders in them
    fitting = (place for place in places if len(os.fsencode(place)) <= _LONGEST_BASE)
    return next((place for place in fitting if place.is_dir() and os.access(place, os.W_OK)), places[0])


class Host(WorkerPlugin):
    """Kernels of one worker.

    The channel to the journal carries ``execute``, ``interrupt``, ``stop``, ``give_up``, ``known``, ``kill``,
    ``close``, ``call``, ``comm``, ``port`` and the blob operations from it, and ``ready``, ``begun``,
    ``messages``, ``missing``, ``end``, ``outside``, ``unknown``, ``answer``, ``port`` and ``lost`` to it.
    A client that reaches this worker has a channel of its own, with ``execute``, ``interrupt`` and ``stop``,
    and with ``messages``, ``missing``, ``end`` and ``detached`` for its runs.

    Parameters
    ----------
    packages : str
        What its worker has, as `environment.said` tells it.
    preload : sequence of str
        Modules that its kernels have imported before they start.
    """

    name = PLUGIN

    def __init__(self, packages: str = "", preload: Sequence[str] = ()) -> None:
        self._packages = packages
        self._preload = [*preload]

    def setup(self, worker: Worker) -> None:
        """Start to serve on ``worker``."""
        self.worker = worker
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spawn(self._serve())

    async def _serve(self) -> None:
        self._identity = secrets.token_hex(8)
        self._directory = own_directory(_for_sockets())
        self._spool = Spool()
        self._template = Template(self._directory, self._preload)
        self._sessions: dict[str, HostedSession] = {}
        self._clients: dict[str, Channel] = {}
        self._devices = Devices(os.environ, self.worker.state.total_resources.get("GPU", 0))
        self._kernels = 0
        self._ports: deque[int] = deque(maxlen=_PORTS)
        self._wanted = asyncio.Event()
        self._journal = Channel(self._from_journal)
        self.worker.handlers["nbcloud_shortcut"] = self.serve_client
        self._spawn(self._connect())
        self._warm: asyncio.Task[KernelProcess] | None = self._spawn(self._first_kernel())

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - the interface
        """End every kernel and remove every file."""
        for task in list(self._tasks):
            task.cancel()
        for session in list(self._sessions.values()):
            session.abort()
        warm = self._warm
        if warm is not None and warm.done() and not warm.cancelled() and not warm.exception():
            warm.result().close()
        self._template.close()
        for channel in (self._journal, *self._clients.values()):
            channel.abort()
        self._spool.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # Connections

    async def _connect(self) -> None:
        """Keep a connection to the journal; the loss of the scheduler ends the worker, not this loop."""
        while True:
            try:
                arguments = self.worker.security.get_connection_args("worker")
                comm = await connect(self.worker.scheduler.address, **arguments)
                await comm.write(
                    {
                        "op": "nbcloud_host",
                        "reply": False,
                        "hello": {
                            "id": self._identity,
                            "protocol": PROTOCOL,
                            "received": self._journal.received,
                            "worker": self.worker.address,
                            "name": str(self.worker.name),
                            "host": socket.gethostname(),
                            "pid": os.getpid(),
                            "spool": str(self._spool.directory),
                            "token": self._spool.token,
                            "packages": self._packages,
                        },
                    }
                )
                welcome = await comm.read()
            except OSError:
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            await self._journal.run(comm, welcome["received"])
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _from_journal(self, message: dict[str, Any]) -> None:
        operation = message.pop("op")
        if operation in {"blob_write", "blob_read", "blob_drop"}:
            self._journal.post(
                {"op": "answer", "ask": message["ask"], **self._spool.serve(operation, message)}
            )
            return
        session = self._sessions.get(message["session"])
        if session is None:
            if "ask" in message:
                self._journal.post({"op": "answer", "ask": message["ask"], "error": "The session is gone."})
            return
        match operation:
            case "execute" | "interrupt" | "stop":
                if message.get("place"):
                    message["place"]["spool"] = str(self._spool.directory)
                self._about_run(session, operation, message, None)
            case "port":
                self._journal.post({"op": "port", **message, "port": self._free_port()})
            case "give_up":
                session.give_up(message["run"])
            case "known":
                never = session.missing_of(message["runs"])
                self._journal.post({"op": "unknown", "session": message["session"], "runs": never})
            case "kill":
                session.kill(message["state"], message["why"])
            case "close":
                session.close(message["why"])
            case "call":
                session.call(frames_of(message))
            case "comm":
                session.comm(frames_of(message), message["ask"])

    def _free_port(self) -> int:
        """A port of this machine that nothing listens on, and that was not given to another gang just now."""
        while True:
            with socket.socket() as found:
                found.bind(("", 0))
                port: int = found.getsockname()[1]
            if port not in self._ports:
                self._ports.append(port)
                return port

    def _about_run(
        self, session: HostedSession, operation: str, message: dict[str, Any], reader: Channel | None
    ) -> None:
        match operation:
            case "execute":
                session.execute(message, reader)
            case "interrupt":
                session.interrupt(message["run"])
            case "stop":
                session.stop(message["run"], message["state"], message["why"])

    async def serve_client(self, comm: Comm, hello: dict[str, Any]) -> None:
        """A client connects that has sessions here: its cells need not go by the scheduler."""
        fits = hello["host"] == self._identity and hello["protocol"] == PROTOCOL
        await comm.write({"shortcut": fits})
        if not fits:
            return

        def receive(message: dict[str, Any]) -> None:
            session = self._sessions.get(message["session"])
            if session is not None:
                self._about_run(session, message.pop("op"), message, channel)

        channel = Channel(receive)
        identity = secrets.token_hex(8)
        self._clients[identity] = channel
        try:
            await channel.run(comm, 0)
        finally:
            del self._clients[identity]

    # Kernels

    async def _start_kernel(self, delay: float = 0) -> KernelProcess:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wanted.wait()
        self._kernels += 1
        directory = self._directory / str(self._kernels)
        directory.mkdir(mode=0o700)
        kernel = KernelProcess(directory, lambda code: self._exited(kernel, code), self._template)
        try:
            await kernel.start()
        except BaseException:
            kernel.close()
            raise
        return kernel

    async def _first_kernel(self) -> KernelProcess:
        """A kernel ahead from a template that has imported all, unless a session wants one before."""
        either = [self._spawn(self._template.loaded(environment())), self._spawn(self._wanted.wait())]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return await self._start_kernel()

    async def _take_kernel(self) -> KernelProcess:
        warm, self._warm = self._warm, None
        cold = True
        self._wanted.set()
        try:
            kernel = await warm if warm is not None else await self._start_kernel()
            if kernel.outdated or not psutil.pid_exists(kernel.pid):
                kernel.close()
                kernel = await self._start_kernel()
            cold = not kernel.forked
        finally:
            # Not at once: the session's first cell wants the processor.
            self._wanted = asyncio.Event()
            if self._warm is None:  # else another session that was begun meanwhile has seen to it
                self._warm = self._spawn(self._start_kernel(_COLD_DELAY if cold else _FORK_DELAY))
        return kernel

    async def claim(self, name: str, memory: int | None, gpus: int, ended: threading.Event) -> None:
        """Give a kernel to a session; called by its Dask task."""
        if name in self._sessions:
            ended.set()
            return
        try:
            devices = self._devices.take(name, gpus)
            kernel = await self._take_kernel()
        except LookupError as error:
            self._journal.post({"op": "lost", "session": name, "why": str(error), "code": None})
            ended.set()
            return
        except Exception as error:  # noqa: BLE001 - whatever keeps a kernel from starting is the answer
            why = f"no kernel could be started there: {error!r}"
            self._journal.post({"op": "lost", "session": name, "why": why, "code": None})
            self._devices.give_back(name)
            ended.set()
            return
        where = {"worker": self.worker.address, "kernel_pid": kernel.pid}
        self._sessions[name] = HostedSession(
            name,
            kernel,
            memory,
            ended,
            journal=self._journal,
            spawn=self._spawn,
            facts={"session": name, "host": socket.gethostname(), **where},
            devices=devices,
        )
        seeing = self._devices.environment(devices)
        if seeing:
            seen = {self._devices.variable: seeing[self._devices.variable]}
            self._sessions[name].settle(seeing)
            self._sessions[name].facts["resources"] = {
                **seen,
                **await asyncio.to_thread(nvml.facts, devices),
            }
        seen = self._sessions[name].facts.get("resources", {})
        # Nobody who asked for no modules cares.
        cold = (kernel.cold or self._template.left_out) if self._preload else ""
        self._journal.post({"op": "ready", "session": name, "resources": seen, "cold": cold, **where})

    def _exited(self, kernel: KernelProcess, code: int) -> None:
        session = next((s for s in self._sessions.values() if s.kernel is kernel), None)
        if session is not None:
            self._spawn(self._end(session, code))

    async def _end(self, session: HostedSession, code: int) -> None:
        await session.end(code)
        del self._sessions[session.name]
        self._devices.give_back(session.name)

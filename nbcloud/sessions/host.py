"""The worker's side: kernels, one for each session, and the pump from their iopub to the journal.

A worker plugin. It keeps one kernel started ahead, so that a session's first cell need not wait for one.
A session is claimed by a Dask task (:func:`hold_session`) that lasts as long as the session does and holds
its Dask resources.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psutil
from distributed import Worker, WorkerPlugin, get_worker, secede
from distributed.comm import connect

from nbcloud.sessions.channel import PROTOCOL, Channel
from nbcloud.sessions.kernel import DONE
from nbcloud.sessions.process import Frames, KernelProcess
from nbcloud.sessions.spool import Spool, own_directory

PLUGIN = "nbcloud"
GRACE = 5.0
"""Seconds between an interrupt that must be obeyed and the kill."""
_WARM_DELAY = 2.0
_RECONNECT_SECONDS = 0.2
_QUIET = {"status", "execute_input", "iopub_welcome"}


def hold_session(session: str, memory: int | None) -> str:
    """The Dask task of a session: runs beside its kernel until the session ends.

    Returns
    -------
    str
        How it ended.
    """
    host: Host = get_worker().plugins[PLUGIN]
    secede()  # the worker's threads stay free for tasks; the resources stay taken
    ended = threading.Event()
    host.worker.loop.add_callback(host.claim, session, memory, ended)
    ended.wait()
    return "ended"


class _Session:
    """A kernel in use."""

    def __init__(self, name: str, kernel: KernelProcess, memory: int | None, ended: threading.Event) -> None:
        self.name = name
        self.kernel = kernel
        self.memory = memory
        self.ended = ended
        self.run: str | None = None
        self.message_id: str | None = None
        self.verdict: tuple[str, str] | None = None
        self.timers: list[asyncio.Task[None]] = []
        self.deadline: asyncio.Task[None] | None = None
        self.comms: dict[str, str] = {}
        """Comm messages that the kernel has not handled yet, and who asked."""
        self.closing = False


class Host(WorkerPlugin):
    """Kernels of one worker.

    The channel to the journal carries ``execute``, ``interrupt``, ``stop``, ``kill``, ``close``, ``call``,
    ``comm`` and the blob operations from it, and ``ready``, ``messages``, ``finished``, ``answer`` and
    ``lost`` to it.
    """

    name = PLUGIN

    def setup(self, worker: Worker) -> None:
        """Start to serve on ``worker``."""
        self.worker = worker
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spawn(self._serve())

    async def _serve(self) -> None:
        self._directory = own_directory(Path(tempfile.gettempdir()))
        self._spool = Spool()
        self._sessions: dict[str, _Session] = {}
        self._kernels = 0
        self._wanted = asyncio.Event()
        self._channel = Channel(self._dispatch)
        self._spawn(self._connect())
        self._warm: asyncio.Task[KernelProcess] | None = self._spawn(self._start_kernel())

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
            session.closing = True
            session.kernel.close()
            session.ended.set()
        if (
            self._warm is not None
            and self._warm.done()
            and not self._warm.cancelled()
            and not self._warm.exception()
        ):
            self._warm.result().close()
        self._channel.abort()
        self._spool.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # The channel to the journal

    async def _connect(self) -> None:
        """Keep a connection to the journal; the loss of the scheduler ends the worker, not this loop."""
        identity = secrets.token_hex(8)
        while True:
            try:
                arguments = self.worker.security.get_connection_args("worker")
                comm = await connect(self.worker.scheduler.address, **arguments)
                await comm.write(
                    {
                        "op": "nbcloud_host",
                        "reply": False,
                        "hello": {
                            "id": identity,
                            "protocol": PROTOCOL,
                            "received": self._channel.received,
                            "worker": self.worker.address,
                            "host": socket.gethostname(),
                            "pid": os.getpid(),
                            "spool": str(self._spool.directory),
                            "token": self._spool.token,
                        },
                    }
                )
                welcome = await comm.read()
            except OSError:
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            await self._channel.run(comm, welcome["received"])
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _dispatch(self, message: dict[str, Any]) -> None:
        operation = message.pop("op")
        if operation in {"blob_write", "blob_read", "blob_drop"}:
            self._answer(message, operation)
            return
        session = self._sessions.get(message["session"])
        if session is None:
            if "ask" in message:
                self._channel.post({"op": "answer", "ask": message["ask"], "error": "The session is gone."})
            return
        match operation:
            case "execute":
                self._execute(session, message)
            case "interrupt":
                self._spawn(session.kernel.interrupt())
            case "stop":
                if session.run == message["run"]:  # it may have ended meanwhile
                    self._stop(session, message["state"], message["why"])
            case "kill":
                session.verdict = session.verdict or (message["state"], message["why"])
                session.kernel.kill()
            case "close":
                session.closing = True
                session.kernel.kill()
            case "call":
                session.kernel.send(_frames(message))
            case "comm":
                self._comm(session, message)

    def _comm(self, session: _Session, message: dict[str, Any]) -> None:
        """Pass a comm message to the kernel; answered when handled, at once when it waits for a run."""
        frames = _frames(message)
        session.kernel.send(frames)
        if session.run is None:
            session.comms[json.loads(frames.header)["msg_id"]] = message["ask"]
        else:
            self._channel.post({"op": "answer", "ask": message["ask"], "answer": None})

    # Kernels

    async def _start_kernel(self, delay: float = 0) -> KernelProcess:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._wanted.wait()
        self._kernels += 1
        directory = self._directory / str(self._kernels)
        directory.mkdir(mode=0o700)
        kernel = KernelProcess(directory, lambda code: self._exited(kernel, code))
        try:
            await kernel.start()
        except BaseException:
            kernel.close()
            raise
        return kernel

    async def _take_kernel(self) -> KernelProcess:
        warm, self._warm = self._warm, None
        self._wanted.set()
        try:
            kernel = await warm if warm is not None else await self._start_kernel()
            if not psutil.pid_exists(kernel.pid):
                kernel = await self._start_kernel()
        finally:
            # Not at once: the session's first cell wants the processor.
            self._wanted = asyncio.Event()
            self._warm = self._spawn(self._start_kernel(_WARM_DELAY))
        return kernel

    async def claim(self, name: str, memory: int | None, ended: threading.Event) -> None:
        """Give a kernel to a session; called by its Dask task."""
        if name in self._sessions:
            ended.set()
            return
        try:
            kernel = await self._take_kernel()
        except Exception as error:  # noqa: BLE001 - whatever keeps a kernel from starting is the answer
            self._channel.post(
                {
                    "op": "lost",
                    "session": name,
                    "why": f"no kernel could be started there: {error!r}",
                    "code": None,
                }
            )
            ended.set()
            return
        session = _Session(name, kernel, memory, ended)
        self._sessions[name] = session
        session.timers.append(self._spawn(self._pump(session)))
        session.timers.append(self._spawn(kernel.discard_replies()))
        if memory:
            session.timers.append(self._spawn(self._watch_memory(session, memory)))
        self._channel.post(
            {"op": "ready", "session": name, "worker": self.worker.address, "kernel_pid": kernel.pid}
        )

    def _exited(self, kernel: KernelProcess, code: int) -> None:
        session = next((s for s in self._sessions.values() if s.kernel is kernel), None)
        if session is None:
            return
        self._spawn(self._end(session, code))

    async def _end(self, session: _Session, code: int) -> None:
        """Report a kernel's end, after all that it said before."""
        await asyncio.sleep(0.05)  # what is still in its socket reaches the pump
        del self._sessions[session.name]
        for timer in session.timers:
            timer.cancel()
        while batch := session.kernel.messages_now():
            await self._take(session, batch)
        items: list[tuple[Any, ...]] = [
            (
                session.run,
                time.time(),
                "stream",
                json.dumps({"name": name, "text": text}).encode(),
                b"{}",
                [],
                b"{}",
            )
            for name, text in session.kernel.unsent()
        ]
        self._pass_on(session, items)
        state, why = session.verdict or ("lost", _epitaph(code, session.kernel.last_words()))
        if session.run is not None:
            self._finish(session, {"state": state, "why": why, "exit_code": code})
        self._channel.post(
            {"op": "lost", "session": session.name, "why": why, "code": code, "closing": session.closing}
        )
        session.kernel.close()
        session.ended.set()

    async def _watch_memory(self, session: _Session, limit: int) -> None:
        """Kill a kernel that takes more than it asked for, before the machine suffers."""
        process = psutil.Process(session.kernel.pid)
        while True:
            await asyncio.sleep(0.5)
            with contextlib.suppress(psutil.Error):
                used = process.memory_info().rss + sum(
                    c.memory_info().rss for c in process.children(recursive=True)
                )
                if used > limit:
                    session.verdict = (
                        "lost",
                        f"it used {used / 2**20:,.0f} MiB of memory, and had asked for "
                        f"{limit / 2**20:,.0f} MiB (--memory), so its kernel was ended",
                    )
                    session.kernel.kill()
                    return

    # Runs

    def _execute(self, session: _Session, message: dict[str, Any]) -> None:
        frames = _frames(message)
        session.run = message["run"]
        session.message_id = json.loads(frames.header)["msg_id"]
        session.verdict = None
        if message["timeout"]:
            why = f"it took longer than its timeout of {message['timeout']:g} s"
            session.deadline = self._spawn(self._stop_after(session, message["run"], message["timeout"], why))
        session.kernel.mark()
        session.kernel.send(frames)

    async def _stop_after(self, session: _Session, run: str, seconds: float, why: str) -> None:
        await asyncio.sleep(seconds)
        if session.run == run:
            self._stop(session, "timeout", why)

    def _stop(self, session: _Session, state: str, why: str) -> None:
        """Interrupt the run; kill its kernel if it goes on all the same."""
        session.verdict = (state, why)
        self._spawn(self._stop_for_sure(session, session.run))

    async def _stop_for_sure(self, session: _Session, run: str | None) -> None:
        await session.kernel.interrupt()
        await asyncio.sleep(GRACE)
        if session.run == run and session.verdict is not None:
            state, why = session.verdict
            session.verdict = (state, f"{why}, and did not stop when interrupted, so its kernel was ended")
            session.kernel.kill()

    async def _pump(self, session: _Session) -> None:
        """Pass the kernel's messages on, and feel it when the journal can't take more."""
        while True:
            await self._take(session, await session.kernel.messages())
            await self._channel.light()

    async def _take(
        self, session: _Session, batch: list[tuple[Frames, dict[str, Any], dict[str, Any]]]
    ) -> None:
        items: list[tuple[Any, ...]] = []
        for frames, header, parent in batch:
            kind = header["msg_type"]
            if kind == "status" and session.run is not None and parent.get("msg_id") == session.message_id:
                self._pass_on(session, items)
                items = []
                self._idle(session, json.loads(frames.content))
            if kind == "status" and parent.get("msg_id") in session.comms and b'"idle"' in frames.content:
                self._pass_on(session, items)
                items = []
                ask = session.comms.pop(parent["msg_id"])
                self._channel.post({"op": "answer", "ask": ask, "answer": None})
            if kind in _QUIET:
                continue
            if kind == DONE:
                self._pass_on(session, items)
                items = []
                self._done(session, frames)
                continue
            run = session.run if parent.get("msg_id") == session.message_id else None
            items.append(
                (run, time.time(), kind, frames.content, frames.metadata, frames.buffers, frames.parent)
            )
        self._pass_on(session, items)

    def _pass_on(self, session: _Session, items: list[tuple[Any, ...]]) -> None:
        if items:
            self._channel.post({"op": "messages", "session": session.name, "items": items})

    def _done(self, session: _Session, frames: Frames) -> None:
        content = json.loads(frames.content)
        if "call" in content:
            self._channel.post(
                {"op": "answer", "ask": content["call"], "content": frames.content, "buffers": frames.buffers}
            )
            return
        if content["run"] != session.run:
            return
        end = {
            "state": "done" if content["status"] in {"ok", "cached"} else "failed",
            "why": "",
            "exit_code": None,
        }
        if content["status"] == "missing":
            end["state"] = "missing"
        elif session.verdict is not None and content["status"] != "ok":
            end["state"], end["why"] = session.verdict
        self._finish(session, end, frames)

    def _idle(self, session: _Session, content: dict[str, Any]) -> None:
        """The kernel is done with a run: normally it has said so itself before."""
        if content["execution_state"] == "idle":
            why = f"its kernel ended it without an answer:\n{session.kernel.last_words()}"
            self._finish(session, {"state": "lost", "why": why, "exit_code": None})

    def _finish(self, session: _Session, end: dict[str, Any], frames: Frames | None = None) -> None:
        run, session.run, session.verdict = session.run, None, None
        if session.deadline is not None:
            session.deadline.cancel()
            session.deadline = None
        self._channel.post(
            {
                "op": "finished",
                "session": session.name,
                "run": run,
                **end,
                "content": frames.content if frames else b"",
                "buffers": frames.buffers if frames else [],
            }
        )

    # Blobs, for clients on other machines

    def _answer(self, message: dict[str, Any], operation: str) -> None:
        answer: dict[str, Any] = {"op": "answer", "ask": message["ask"]}
        try:
            path = self._blob(message["file"])
            match operation:
                case "blob_write":
                    _write_piece(path, message)
                case "blob_read":
                    with path.open("rb") as file:
                        file.seek(message["offset"])
                        answer["data"] = file.read(message["size"])
                case "blob_drop":
                    path.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            answer["error"] = str(error)
        self._channel.post(answer)

    def _blob(self, name: str) -> Path:
        if not name.isalnum():
            raise ValueError(f"{name!r} is not the name of a blob.")
        return self._spool.directory / name


def _write_piece(path: Path, message: dict[str, Any]) -> None:
    """Add one piece to a blob that takes its name with the last."""
    if not message["writer"].isalnum():
        raise ValueError(f"{message['writer']!r} is not the name of a writer.")
    part = path.with_suffix(f".{message['writer']}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.seek(message["offset"])
        file.write(message["data"])
        if message["last"]:
            file.truncate(message["total"])
    if message["last"]:
        part.replace(path)


def _frames(message: dict[str, Any]) -> Frames:
    return Frames(
        message["header"], message["parent"], message["metadata"], message["content"], message["buffers"]
    )


def _epitaph(code: int, last_words: str) -> str:
    """How a kernel that nobody ended came to its end, in words."""
    if code == 0:
        return "its kernel ended by exit() or quit()"
    if code > 0:
        return f"its kernel ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
    if name == "SIGKILL":
        return "its kernel was killed (SIGKILL), most likely because the machine ran out of memory"
    where = f":\n{last_words}" if last_words else ""
    return f"its kernel crashed ({name}){where}"

"""One kernel process beside a worker, and its message frames.

Frames are passed on as they are: only a message's header and parent are read here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import DELIM

from nbcloud.errors import SessionLost
from nbcloud.sessions.host.template import Child, Template
from nbcloud.sessions.kernel.blackbox import POSITION_KEY, Reader
from nbcloud.sessions.messages import AFTER, BLACK_BOX, DONE

_READY_SECONDS = 60
_AT_ONCE = 200
_CONNECT_MILLISECONDS = 10
"""How often to look for the sockets of a kernel that begins; ZeroMQ's 100 are longer than a fork takes."""


@dataclass(frozen=True)
class Frames:
    """A message as it stands on the wire, unsigned.

    ``header``, ``parent``, ``metadata`` and ``content`` are JSON, as bytes.
    """

    header: bytes
    parent: bytes
    metadata: bytes
    content: bytes
    buffers: list[bytes]


Message = tuple[Frames, dict[str, Any], dict[str, Any]]
"""Frames, header and parent."""


class _Specs(KernelSpecManager):
    """The one kernel that sessions run."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:  # noqa: ARG002 - the interface
        argv = [sys.executable, "-m", "nbcloud.sessions.kernel", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="nbcloud", language="python", interrupt_mode="signal")


def environment() -> dict[str, str]:
    """The worker's environment, without what Dask set for its own threads: that of its kernels."""
    import dask

    own = dict(os.environ)
    for key, value in dask.config.get("distributed.nanny.pre-spawn-environ", default={}).items():
        if own.get(key) == str(value):
            del own[key]
    # PYTHONHASHSEED is Dask's, for its workers; the others belong to who started the worker.
    for key in ("JPY_SESSION_NAME", "JPY_API_TOKEN", "PYTEST_CURRENT_TEST", "PYTHONHASHSEED"):
        own.pop(key, None)
    own["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a warning of the debugger's, which nobody asked for
    own["JPY_PARENT_PID"] = str(os.getpid())  # as jupyter_client has it
    return own


class KernelProcess:
    """A kernel, from its start to its end.

    Parameters
    ----------
    directory : Path
        Private and short, for the connection file, the sockets and the log.
    on_exit : callable
        Called in the event loop with the exit code, once, however the process ends.
    template : Template, optional
        Forks the process, where it can.
    """

    def __init__(
        self, directory: Path, on_exit: Callable[[int], None], template: Template | None = None
    ) -> None:
        self._directory = directory
        self._on_exit = on_exit
        self._template = template
        self._process: Any = None
        self.cold = ""
        """Why it was not forked."""
        self._loop = asyncio.get_running_loop()
        self._reaped = False
        self._ended: asyncio.Future[int] = self._loop.create_future()
        # One context for all: each has a thread of its own, and takes its time to end.
        manager = AsyncKernelManager(
            context=zmq.asyncio.Context.instance(), kernel_spec_manager=_Specs(), kernel_name="nbcloud"
        )
        manager.connection_file = str(directory / "kernel.json")
        if os.name == "posix":
            manager.transport = "ipc"
            manager.ip = str(directory / "k")
        self._manager = manager
        self._async_sockets: tuple[Any, ...] = ()
        self._news = asyncio.Event()
        self._seen = 0
        """The number of the last output that came."""
        self._replies: deque[tuple[int, Message]] = deque()
        """What the shell channel said, and after which output it has its place."""
        self.pid = 0
        self.log = directory / "kernel.log"
        self._black_box_file = directory / "black-box"

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        self._black_box = Reader(self._black_box_file)
        forked = await self._forked()
        if isinstance(forked, str):
            self.cold, forked = forked, await self._started()
        self._process = forked
        self.pid = self._process.pid
        threading.Thread(target=self._wait, daemon=True, name="nbcloud-kernel-exit").start()
        self._session = self._manager.session
        # Requests wait in memory: a send that waits for the kernel would stop all of the worker.
        self._manager.context.sndhwm = 0
        self._manager.context.reconnect_ivl = _CONNECT_MILLISECONDS
        # Read when their descriptors say so: ZeroMQ's sockets for asyncio take longer for each message.
        self._async_sockets = (self._manager.connect_shell(), self._manager.connect_iopub())
        self._shell, self._iopub = (zmq.Socket.shadow(socket.underlying) for socket in self._async_sockets)
        for socket in (self._shell, self._iopub):
            socket.linger = 0
            self._loop.add_reader(socket.FD, self._readable, socket)
        async with asyncio.timeout(_READY_SECONDS):
            ready = asyncio.create_task(self._answers())
            either: list[asyncio.Future[Any]] = [ready, self._ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                ready.cancel()
                raise SessionLost(
                    f"The kernel ended at its start, with code {self._ended.result()}:\n{self.last_words()}"
                )
            await ready

    async def _forked(self) -> Child | str:
        if self._template is None:
            return "there is no template"
        self._manager.write_connection_file()
        return await self._template.fork(
            environment(),
            connection_file=self._manager.connection_file,
            black_box=str(self._black_box_file),
            log=str(self.log),
        )

    async def _started(self) -> Any:
        variables = {**environment(), BLACK_BOX: str(self._black_box_file)}
        with self.log.open("wb") as log:
            await self._manager.start_kernel(
                env=variables, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self._manager.provisioner.process

    def _readable(self, socket: zmq.Socket[bytes]) -> None:
        socket.get(zmq.EVENTS)  # else the descriptor goes on saying so
        self._news.set()

    async def _answers(self) -> None:
        """Ask, once the subscription to iopub is in force; the answer proves that the kernel runs."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while True:
                        for _, header, parent in await self.messages():
                            if header["msg_type"] == "iopub_welcome":
                                self.send(self.frames("kernel_info_request", {}))
                            elif parent.get("msg_type") == "kernel_info_request":
                                return
            self.send(self.frames("kernel_info_request", {}))

    def _wait(self) -> None:
        code = self._process.wait()
        self._reaped = True
        self._signal(signal.SIGKILL)  # what it started and left
        with contextlib.suppress(RuntimeError):  # the worker's loop may be gone before its kernels
            self._loop.call_soon_threadsafe(self._exited, code)

    def _exited(self, code: int) -> None:
        self._ended.set_result(code)
        self._on_exit(code)

    def frames(self, msg_type: str, content: dict[str, Any]) -> Frames:
        """A request of our own."""
        header = self._session.msg_header(msg_type)
        return Frames(self._session.pack(header), b"{}", b"{}", self._session.pack(content), [])

    def send(self, frames: Frames) -> None:
        """Send a request on the shell channel."""
        parts = [frames.header, frames.parent, frames.metadata, frames.content]
        signature = self._session.sign(parts)
        self._shell.send_multipart([DELIM, signature, *parts, *frames.buffers])
        self._news.set()  # to send may use up what the descriptor had to say

    async def messages(self) -> list[Message]:
        """Wait for messages; returns those that are there: frames, header and parent.

        They are those of iopub, and from the shell channel ``nbcloud_done``, behind the outputs before it,
        and ``execute_reply``.
        """
        while True:
            self._news.clear()
            batch = self._there()
            if batch:
                return self._marked(batch)
            await self._news.wait()

    def messages_now(self) -> list[Message]:
        """Messages that are there already, of a process that has ended."""
        batch = self._there()
        while self._replies and not batch:  # what should have come before can't come any more
            batch = [self._replies.popleft()[1]]
        return self._marked(batch)

    def _there(self) -> list[Message]:
        batch: list[Message] = []
        with contextlib.suppress(zmq.Again):
            while len(batch) < _AT_ONCE:
                parts = self._iopub.recv_multipart(zmq.NOBLOCK)
                if parts[0].isdigit():
                    self._seen = int(parts[0])
                batch.append(_parsed(parts))
        with contextlib.suppress(zmq.Again):
            while True:
                reply = _parsed(self._shell.recv_multipart(zmq.NOBLOCK))
                frames, header, _ = reply
                if header["msg_type"] == DONE:
                    self._replies.append((json.loads(frames.content)[AFTER], reply))
                elif header["msg_type"] == "execute_reply":
                    self._replies.append((0, reply))
        while self._replies and self._replies[0][0] <= self._seen:
            batch.append(self._replies.popleft()[1])
        if len(batch) >= _AT_ONCE:
            self._news.set()
        return batch

    def _marked(self, batch: list[Message]) -> list[Message]:
        """Note how far the kernel's text has come; the rest is in the black box."""
        for frames, header, _ in reversed(batch):
            if header["msg_type"] == "stream" and POSITION_KEY.encode() in frames.metadata:
                self._black_box.take(json.loads(frames.metadata)[POSITION_KEY])
                break
        return batch

    def mark(self) -> None:
        """Forget what was written up to now: it belongs to no run."""
        self._black_box.take(self._black_box.written)

    def unsent(self) -> list[tuple[str, str]]:
        """Stream names and texts that the process wrote and could not send before it ended."""
        return self._black_box.unread()

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs."""
        if os.name != "posix":
            await self._manager.interrupt_kernel()
        elif not self._reaped:
            self._signal(signal.SIGINT)

    @property
    def forked(self) -> bool:
        """Whether it comes from the template."""
        return isinstance(self._process, Child)

    @property
    def outdated(self) -> bool:
        """Whether it has imported what has changed since, unlike one that would be started now."""
        return isinstance(self._process, Child) and bool(self._process.changed)

    def shut_down(self) -> None:
        """Have the process end by itself, as a notebook's does when it is shut down."""
        self.send(self.frames("shutdown_request", {"restart": False}))

    def kill(self) -> None:
        """End the process and its children at once."""
        # Once it is reaped, its number may be another process's.
        if self._process is not None and not self._reaped:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Send a signal to the process and the group that it leads."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self.pid, number)
            else:
                self._process.kill()

    def close(self) -> None:
        """Kill the process and remove its files."""
        self.kill()
        for socket in self._async_sockets:
            with contextlib.suppress(zmq.ZMQError):
                self._loop.remove_reader(socket.FD)
            socket.close(0)
        self._manager._close_control_socket()  # which a cold start opens
        self._manager.cleanup_connection_file()
        shutil.rmtree(self._directory, ignore_errors=True)

    def last_words(self, lines: int = 15) -> str:
        """The end of what the process wrote to its own standard error, such as a fatal error's stack."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def _parsed(parts: list[bytes]) -> Message:
    start = parts.index(DELIM) + 2
    header, parent, metadata, content, *buffers = parts[start:]
    return Frames(header, parent, metadata, content, buffers), json.loads(header), json.loads(parent)

"""A real kernel, driven and timed the way a front end sees it.

The clock starts when the driver sends the ``execute_request`` and each message is stamped as it arrives.
Nothing but the headers is parsed while the clock runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from benchmarks.screen import Message, Screen, plain

_DELIMITER = b"<IDS|MSG>"
_FLOOD = 4 * 2**30


class CellError(Exception):
    """A cell that should have worked raised."""


class UnfinishedError(Exception):
    """A cell did not finish within its limits of time and bytes, or its kernel died."""


@dataclass
class Cell:
    """One executed cell: what came of it, and when."""

    sent: float
    replied: float = 0
    idle: float = 0
    finished: float = 0
    failure: str = ""
    messages: list[Message] = field(default_factory=list)
    screen: Screen = field(default_factory=Screen)
    iopub_bytes: int = 0
    _folded: int = 0

    @property
    def seconds(self) -> float:
        return self.finished - self.sent

    def first(self, text: bytes) -> float:
        """Seconds until ``text`` first came, in an output of any kind."""
        for message in self.messages:
            if message.is_output and text in message.content:
                return message.at - self.sent
        raise CellError(f"{text.decode()} was never shown")

    def fold(self) -> Screen:
        """Bring the screen up to date."""
        for message in self.messages[self._folded :]:
            if message.is_output:
                self.screen.add(message)
        self._folded = len(self.messages)
        return self.screen

    def finish(self, *, with_output: bool) -> None:
        last = max((message.at for message in self.messages if message.is_output), default=0)
        self.finished = max(self.replied, self.idle, last if with_output else 0)


class Kernel:
    """A long-lived ipykernel of some environment, and the one client that drives it."""

    def __init__(self, name: str, python: Path, home: Path, environment: dict[str, str]) -> None:
        spec = home / "kernels" / name
        spec.mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": name, "language": "python"})
        )
        specs = KernelSpecManager(kernel_dirs=[str(home / "kernels")], ensure_native_kernel=False)
        # ipc, so that the only TCP of this process is the contender's own, and can be counted.
        self._manager = KernelManager(
            kernel_name=name,
            kernel_spec_manager=specs,
            transport="ipc",
            connection_file=str(home / f"{name}.json"),
        )
        self._manager.start_kernel(env=environment, cwd=str(home))
        self._client: BlockingKernelClient = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self._shell = self._client.shell_channel.socket
        self._iopub = self._client.iopub_channel.socket
        self._busy = False
        self._poller = zmq.Poller()
        self._poller.register(self._shell, zmq.POLLIN)
        self._poller.register(self._iopub, zmq.POLLIN)

    @property
    def pid(self) -> int:
        return self._manager.provisioner.pid

    def run(
        self,
        code: str,
        *,
        shown: Callable[[Screen], bool] | None = None,
        may_fail: bool = False,
        limit: float = 120,
    ) -> Cell:
        """Execute ``code``; finished when it was replied to, the kernel is idle, and ``shown`` holds.

        ``shown`` covers contenders whose output comes after the cell has ended.
        """
        self._drain()
        self._busy = True
        cell = Cell(time.perf_counter())
        request = self._client.execute(code, allow_stdin=False)
        while True:
            self._take(cell, request, limit)
            if not (cell.replied and cell.idle) or self._iopub.poll(0):
                continue  # folding is slow, so take all that has arrived first
            if cell.failure and not may_fail:
                self._busy = False
                raise CellError(plain(cell.failure))
            screen = cell.fold()
            if shown is None or shown(screen):
                break
        self._busy = False
        cell.finish(with_output=shown is not None)
        return cell

    def _take(self, cell: Cell, request: str, limit: float) -> None:
        """Wait a while for the next message, and note what it says about ``cell``."""
        wait = cell.sent + limit - time.perf_counter()
        ready = dict(self._poller.poll(1000 * max(0, min(wait, 1))))
        now = time.perf_counter()
        if wait < 0:
            raise UnfinishedError(f"not finished in {limit:.0f} s")
        if cell.iopub_bytes > _FLOOD:
            raise UnfinishedError(f"not finished after {_FLOOD >> 30} GiB of messages to the front end")
        if not ready and not self._manager.is_alive():
            raise UnfinishedError("the kernel died")
        if self._iopub in ready:
            header, parent, content, size = _receive(self._iopub)
            cell.messages.append(Message(now, header["msg_type"], content))
            cell.iopub_bytes += size
            is_status = header["msg_type"] == "status" and parent.get("msg_id") == request
            if is_status and b'"idle"' in content:
                cell.idle = now
        if self._shell in ready:
            _, parent, content, _ = _receive(self._shell)
            if parent.get("msg_id") == request:
                reply = json.loads(content)
                cell.replied = now
                cell.failure = (
                    "" if reply["status"] == "ok" else f"{reply.get('ename')}: {reply.get('evalue')}"
                )

    def _drain(self) -> None:
        """Drop what an earlier cell still sends, until it is quiet."""
        while self._poller.poll(10):
            for socket in (self._shell, self._iopub):
                while socket.poll(0):
                    socket.recv_multipart()

    def interrupt(self) -> None:
        """Stop the cell that was given up, if there is one."""
        if self._busy:
            self._manager.interrupt_kernel()

    def close(self) -> None:
        try:
            self._client.stop_channels()
        finally:
            self._manager.shutdown_kernel(now=True)


def _receive(socket: zmq.Socket) -> tuple[dict, dict, bytes, int]:
    frames = socket.recv_multipart()
    start = frames.index(_DELIMITER) + 2
    return json.loads(frames[start]), json.loads(frames[start + 1]), frames[start + 3], sum(map(len, frames))

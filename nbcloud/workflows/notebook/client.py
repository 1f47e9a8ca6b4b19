"""A session of a cluster as nbclient sees a kernel: what runs a notebook there is nbclient itself.

So outputs, widgets, tags, timings and errors are those that papermill's users know; only the messages come
from a run's journal, and not from sockets.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import platform
import queue
import secrets
import threading
from collections.abc import Callable
from typing import Any

from jupyter_client.session import Session as JupyterSession

from nbcloud.dispatch.kernel import CloudKernel
from nbcloud.dispatch.run import CloudRun, failure
from nbcloud.errors import NbcloudError
from nbcloud.runs.record import RunState

_LANGUAGE = {
    "name": "python",
    "version": platform.python_version(),
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "pygments_lexer": "ipython3",
    "nbconvert_exporter": "python",
    "file_extension": ".py",
}

Message = dict[str, Any]


class _Channel:
    """One of a client's two channels: what was put in comes out in order, an error is raised."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self.send = send

    def put(self, message: Message | Exception) -> None:
        self._messages.put_nowait(message)

    async def get_msg(self, timeout: float | None = None) -> Message:
        """The next message; raises `queue.Empty` after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                message = await self._messages.get()
        except TimeoutError:
            raise queue.Empty from None
        if isinstance(message, Exception):
            raise message
        return message


class CloudClient:
    """What nbclient needs of a kernel's client and of its manager.

    Parameters
    ----------
    kernel : CloudKernel
        Started.
    """

    has_kernel = True

    def __init__(self, kernel: CloudKernel) -> None:
        self.allow_stdin = False
        self.session = JupyterSession()
        self.run: CloudRun | None = None
        self.count = 0
        """How many cells were executed."""
        self.sent: list[str] = []
        """Runs of the next cells, which an earlier process has sent already."""
        self.restored = 0
        """How many cells have run in another session."""
        self.replies = True
        """Whether the kernel is told what nbclient's halves of widgets say."""
        self._kernel = kernel
        self.shell_channel = _Channel(self._send)
        self.iopub_channel = _Channel(self._send)

    # As a manager

    def client(self) -> CloudClient:
        """Itself."""
        return self

    async def is_alive(self) -> bool:
        """Whether there is more to come; a run that is lost says so by itself."""
        return True

    def interrupt_kernel(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs."""
        if self.run is not None:
            self.run.interrupt()

    # As a client

    def start_channels(self) -> None:
        """Nothing to do: the link to the cluster is there."""

    stop_channels = start_channels

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Nothing to do: a session is ready when it is opened."""

    def kernel_info(self) -> str:
        """Ask for the kernel's language."""
        ask = secrets.token_hex(8)
        self.shell_channel.put(_message("kernel_info_reply", {"language_info": _LANGUAGE}, ask))
        return ask

    def execute(self, code: str, *, store_history: bool = True, stop_on_error: bool = True) -> str:  # noqa: ARG002
        """Send a cell; returns the id that its messages name as their parent."""
        self.count += 1
        sent, self.sent = self.sent[:1], self.sent[1:]
        run = self.run = self._kernel.attach(*sent) if sent else self._kernel.execute(code, self.count)
        loop = asyncio.get_running_loop()
        self.iopub_channel.put(_message("status", {"execution_state": "busy"}, run.id))
        self.iopub_channel.put(_message("execute_input", {"execution_count": self.count}, run.id))
        threading.Thread(target=self._pump, args=(run, loop), daemon=True, name="nbcloud-notebook").start()
        return run.id

    def _pump(self, run: CloudRun, loop: asyncio.AbstractEventLoop) -> None:
        """Bring what comes to the loop that waits for it."""
        with contextlib.suppress(RuntimeError):  # it was closed: nobody waits any more
            while True:
                messages, event = run.take()
                if messages:
                    loop.call_soon_threadsafe(self._say, run.id, messages)
                if event == ("end", None):
                    loop.call_soon_threadsafe(self._end, run)
                    return

    def _say(self, run: str, messages: list[Message]) -> None:
        for message in messages:
            buffers = [base64.b64decode(buffer) for buffer in message.get("buffers", ())]
            self.iopub_channel.put(
                _message(message["msg_type"], message["content"], run, message["time"], buffers)
            )

    def _end(self, run: CloudRun) -> None:
        error = failure(run)
        if error is not None and run.state is not RunState.FAILED:
            self.shell_channel.put(error)
            return
        told = run.error or {}
        content = {
            "status": "error" if error is not None else "ok",
            "ename": told.get("ename", ""),
            "evalue": told.get("evalue", ""),
            "traceback": told.get("traceback", []),
        }
        self.iopub_channel.put(_message("status", {"execution_state": "idle"}, run.id))
        self.shell_channel.put(_message("execute_reply", content, run.id))

    def _send(self, message: Message) -> None:
        """A widget that nbclient plays says something to its other half."""
        from nbcloud.sessions.messages import frames

        session = self._kernel.session
        if session is None or session.lost or not self.replies:
            return
        header = {key: value for key, value in message["header"].items() if key != "date"} | {"date": ""}
        fields = frames(message["msg_type"], message["content"], header=header, metadata=message["metadata"])
        with contextlib.suppress(NbcloudError):
            session.link.ask_soon("comm", session=session.id, **fields)


def _message(
    kind: str,
    content: dict[str, Any],
    parent: str,
    when: float | None = None,
    buffers: list[bytes] | None = None,
) -> Message:
    """A message as nbclient reads it."""
    now = datetime.datetime.now(datetime.UTC)
    date = now if when is None else datetime.datetime.fromtimestamp(when, datetime.UTC)
    return {
        "header": {"msg_type": kind, "date": date},
        "msg_type": kind,
        "parent_header": {"msg_id": parent},
        "content": content,
        "metadata": {},
        "buffers": buffers or [],
    }

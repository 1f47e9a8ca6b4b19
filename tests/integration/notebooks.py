"""A real kernel with nbcloud in it, driven cell by cell, as a frontend would."""

from __future__ import annotations

import os
import queue
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Shown:
    """What one cell showed."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    count: int | None = None
    """The number that the cell got."""

    def text(self, name: str = "stdout") -> str:
        """All text of one stream."""
        return "".join(
            m["content"]["text"]
            for m in self.messages
            if m["msg_type"] == "stream" and m["content"]["name"] == name
        )

    @property
    def notes(self) -> str:
        """All text on stderr, without colours."""
        return _ANSI.sub("", self.text("stderr"))

    @property
    def result(self) -> str:
        """The plain text of the last expression."""
        found = [
            m["content"]["data"]["text/plain"] for m in self.messages if m["msg_type"] == "execute_result"
        ]
        return found[-1] if found else ""

    @property
    def error(self) -> str:
        """The name of the error that it ended with, or an empty string."""
        found = [m["content"]["ename"] for m in self.messages if m["msg_type"] == "error"]
        return found[-1] if found else ""

    @property
    def traceback(self) -> str:
        """The traceback as text, without colours."""
        found = [m["content"]["traceback"] for m in self.messages if m["msg_type"] == "error"]
        return _ANSI.sub("", "\n".join(found[-1])) if found else ""

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Contents of all messages of one type."""
        return [m["content"] for m in self.messages if m["msg_type"] == kind]


class RunningNotebook:
    """A kernel, and the cells that are given to it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.stray: list[dict[str, Any]] = []

    def start(self, code: str) -> str:
        """Send a cell; returns its message id."""
        return str(self.client.execute(code))

    def run(
        self, code: str, *, limit: float = 90.0, meanwhile: Callable[[Shown], bool] | None = None
    ) -> Shown:
        """Send a cell and wait for its end.

        ``meanwhile`` is called with what was shown up to now, until it returns True.
        """
        return self.finish(self.start(code), limit=limit, meanwhile=meanwhile)

    def finish(
        self, message_id: str, *, limit: float = 90.0, meanwhile: Callable[[Shown], bool] | None = None
    ) -> Shown:
        """Wait for the end of a cell that was sent."""
        shown = Shown()
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                message = None
            if message is not None:
                if message["parent_header"].get("msg_id") != message_id:
                    self.stray.append(message)
                elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    return shown
                elif message["msg_type"] == "execute_input":
                    shown.count = message["content"]["execution_count"]
                elif message["msg_type"] != "status":
                    shown.messages.append(message)
            if meanwhile is not None and meanwhile(shown):
                meanwhile = None
        raise TimeoutError(f"The cell did not end within {limit:g} s; it showed {shown.messages}")

    def later(self, message_id: str, done: Callable[[Shown], bool], limit: float = 60.0) -> Shown:
        """Outputs of a cell that came after its end, waiting until ``done`` is content with them."""
        deadline = time.monotonic() + limit
        while True:
            shown = Shown([m for m in self.stray if m["parent_header"].get("msg_id") == message_id])
            if done(shown):
                return shown
            if time.monotonic() > deadline:
                raise TimeoutError(f"It showed only {shown.messages}")
            try:
                self.stray.append(self.client.get_iopub_msg(timeout=0.2))
            except queue.Empty:
                continue

    def interrupt(self) -> None:
        """What the Interrupt button does."""
        self.manager.interrupt_kernel()

    def restart(self) -> None:
        """What the Restart button does."""
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)


@contextmanager
def running_notebook(
    *, load: bool = True, folder: Path | None = None, **environment: str
) -> Iterator[RunningNotebook]:
    """Start a kernel in a folder, with the extension loaded; it is killed at the end."""
    manager = KernelManager(kernel_name="python3", transport="ipc" if os.name == "posix" else "tcp")
    # Absolute: the sockets lie beside this file, and a kernel in another folder would look for them there.
    private = Path(tempfile.mkdtemp(prefix="nb"))
    manager.connection_file = str(private / f"kernel-{private.name}.json")
    manager.start_kernel(env={**os.environ, **environment}, cwd=folder)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        notebook = RunningNotebook(manager, client)
        if load:
            shown = notebook.run("%load_ext nbcloud")
            assert not shown.messages, shown.messages
        yield notebook
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        shutil.rmtree(private, ignore_errors=True)


def when(text: str, action: Callable[[], object]) -> Callable[[Shown], bool]:
    """Do something once a cell has printed ``text``."""

    def look(shown: Shown) -> bool:
        if text not in shown.text():
            return False
        action()
        return True

    return look


def works(notebook: RunningNotebook) -> Shown:
    """The next cell runs."""
    shown = notebook.run("%%cloud\n20 + 1")
    assert shown.result == "21", shown.messages
    return shown


def pids(notebook: RunningNotebook) -> tuple[int, int]:
    """Processes of the session's worker and kernel."""
    shown = notebook.run("%%cloud\nimport os\nprint(os.getppid(), os.getpid())")
    worker, kernel = shown.text().split()
    return int(worker), int(kernel)

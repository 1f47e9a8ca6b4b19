"""The kernel's stdout and stderr: in the order in which they were written, and at once.

ipykernel buffers each stream by itself for 0.2 s, so that text of the two arrives out of order and late.
Here both share one backlog; the first text after a pause goes out at once, the rest in small batches.
"""

from __future__ import annotations

import codecs
import os
import select
import struct
import sys
import threading
import time
from io import StringIO
from typing import Any

from ipykernel.iostream import OutStream

from nbcloud.redact import Redactor
from nbcloud.sessions.kernel.blackbox import POSITION_KEY, BlackBox

if sys.platform != "win32":
    import fcntl
    import termios

_READ = 2**16
_PENDING_LIMIT = 2**20
_AT_ONCE = 2**18
"""Characters that are written in one go; their bytes fit the black box with what may wait there."""
_DRAIN_SECONDS = 0.5
_TOGETHER = 0.002
"""Seconds in which print() writes its text and then its newline."""
_LINE = 0.05
"""Seconds that a line without its end waits for it: on a busy machine print() takes as long."""


class Backlog:
    """What the two streams have written and not sent yet, in order.

    Attributes
    ----------
    lock : threading.RLock
        Held by whoever changes any of it.
    segments : list
        Stream name, parent and text of each stretch that one stream wrote for one request.
    characters : int
        How much text that is.
    open : bool
        Whether it ends within a line.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.segments: list[tuple[str, dict[str, Any], StringIO]] = []
        self.characters = 0
        self.open = False
        self.sent = 0.0
        self.scheduled = False
        self.black_box: BlackBox | None = None

    @property
    def is_full(self) -> bool:
        """Whether writers should wait until some of it was sent, and has come to the host."""
        return self.characters > _PENDING_LIMIT or (self.black_box is not None and self.black_box.is_full)

    def add(self, name: str, parent: dict[str, Any], text: str) -> None:
        """Add text of a stream."""
        segments = self.segments
        if not segments or segments[-1][1] is not parent or segments[-1][0] != name:
            segments.append((name, parent, StringIO()))
        segments[-1][2].write(text)
        if self.black_box is not None:
            self.black_box.write(name, text)
        self.characters += len(text)
        self.open = not text.endswith("\n")

    def take(self) -> tuple[list[tuple[str, dict[str, Any], StringIO]], int]:
        """The segments, which are the caller's to send, and how far the black box has come with them."""
        segments, self.segments = self.segments, []
        self.characters, self.scheduled = 0, False
        return segments, self.black_box.position if self.black_box is not None else 0


class OrderedOutStream(OutStream):
    """One of the two streams."""

    flush_interval = 0.02
    backlog = Backlog()
    _redactor: Redactor | None = None

    def write(self, string: str) -> int:
        """Add text to the backlog; waits when the reader is far behind."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if self.pub_thread is None:
            raise ValueError("I/O operation on closed file")
        if os.getpid() != self._master_pid:
            return self._write_forked(string)
        if len(string) > _AT_ONCE:
            return sum(
                self.write(string[start : start + _AT_ONCE]) for start in range(0, len(string), _AT_ONCE)
            )
        with self.backlog.lock:
            self._add(self._redactor.stream(string) if self._redactor is not None else string)
        if self.backlog.is_full:
            self._wait_for_reader()
        return len(string)

    def _wait_for_reader(self) -> None:
        while self.backlog.is_full and threading.current_thread() is not self.pub_thread.thread:
            self.flush()
            if self.backlog.is_full:
                time.sleep(_TOGETHER)

    def _write_forked(self, string: str) -> int:
        """In a forked child, which has no IO thread: through the file descriptor that its parent reads."""
        if self._redactor is not None:
            string = self._redactor.text(string)
        descriptor = (
            self._original_stdstream_fd if self._should_watch else {"stdout": 1, "stderr": 2}[self.name]
        )
        data = memoryview(string.encode("utf-8", "replace"))
        while data.nbytes:
            data = data[os.write(descriptor, data) :]
        return len(string)

    def _add(self, text: str) -> None:
        """Add text without secrets; called with the lock."""
        if not text:
            return
        backlog = self.backlog
        backlog.add(self.name, self.parent_header, text)
        if not backlog.scheduled:
            backlog.scheduled = True
            pause = max(_TOGETHER, backlog.sent + self.flush_interval - time.monotonic())
            self.pub_thread.schedule(lambda: self._io_loop.call_later(pause, self._flush_lines))

    def redact_with(self, redactor: Redactor) -> None:
        """Keep secrets out of all that is written from now on."""
        with self.backlog.lock:
            self._let_go()
            self._redactor = redactor.fork() if redactor else None

    def _let_go(self) -> None:
        if self._redactor is not None:
            self._add(self._redactor.flush())

    def send_soon(self) -> None:
        """Give the IO thread what was written, before all that it is given later."""
        self._flush()

    def _flush_lines(self) -> None:
        """Send what was written, a moment later where it ends within a line."""
        if self.backlog.open:
            self._io_loop.call_later(_LINE, self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        if not self._is_master_process():
            super()._flush()
            return
        # Taken and given in one: another thread that sends in between would overtake what was taken.
        with self.backlog.lock:
            segments, position = self.backlog.take()
            for index, (name, parent, buffer) in enumerate(segments):
                self.session.pid = os.getpid()
                content = {"name": name, "text": buffer.getvalue()}
                # The last of them takes the host's mark to where the ring was when they were taken.
                metadata = {POSITION_KEY: position} if index == len(segments) - 1 else {}
                message = self.session.msg("stream", content, parent=parent, metadata=metadata)
                self.session.send(self.pub_thread, message, ident=b"stream." + name.encode())
            self.backlog.sent = time.monotonic()

    # File descriptors 1 and 2: output of C libraries and of child processes.

    def _setup_stream_redirects(self, name: str) -> None:
        self._reading = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        super()._setup_stream_redirects(name)

    def _watch_pipe_fd(self) -> None:
        try:
            while self._should_watch:
                select.select([self._fid], [], [])
                with self._reading:
                    if self._should_watch and self._readable():
                        self._read()
        except Exception:  # noqa: BLE001 - kept for close(), as ipykernel does
            self._exc = sys.exc_info()

    def _readable(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self._fid, termios.FIONREAD, b"\0" * 4))[0])

    def _read(self) -> None:
        text = self._decoder.decode(os.read(self._fid, _READ))
        if text:
            self.write(text)

    def drain(self) -> None:
        """Take in what was written to the file descriptor, and let go what was held back, up to now."""
        self._drain_descriptor()
        with self.backlog.lock:
            self._let_go()

    def _drain_descriptor(self) -> None:
        if not self._should_watch:
            return
        deadline = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < deadline:
            with self._reading:
                if not self._readable():
                    return
                self._read()

"""The kernel's stdout and stderr: in the order in which they were written, and at once.

ipykernel buffers each stream by itself for 0.2 s, so that text of the two arrives out of order and late.
Here both share one buffer; the first text after a pause goes out at once, the rest in small batches.
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
from nbcloud.sessions.blackbox import POSITION_KEY, BlackBox

if sys.platform != "win32":
    import fcntl
    import termios

_READ = 2**16
_PENDING_LIMIT = 2**20
_DRAIN_SECONDS = 0.5
_TOGETHER = 0.002
"""Seconds in which print() writes its text and then its newline."""


class OrderedOutStream(OutStream):
    """One of the two streams; their text waits in one list, in order."""

    flush_interval = 0.02
    black_box: BlackBox | None = None
    _redactor: Redactor | None = None
    _segments: list[tuple[str, dict[str, Any], StringIO]] = []  # noqa: RUF012 - shared by both on purpose
    _segments_lock = threading.RLock()
    _pending = 0
    _flushed = 0.0

    def write(self, string: str) -> int:
        """Add text to the shared buffer; waits when the reader is far behind."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string)}")
        if self.pub_thread is None:
            raise ValueError("I/O operation on closed file")
        if os.getpid() != self._master_pid:
            return self._write_forked(string)
        with self._segments_lock:
            self._add(self._redactor.stream(string) if self._redactor is not None else string)
        if OrderedOutStream._pending > _PENDING_LIMIT:
            self._wait_for_reader()
        return len(string)

    def _wait_for_reader(self) -> None:
        while (
            OrderedOutStream._pending > _PENDING_LIMIT
            and threading.current_thread() is not self.pub_thread.thread
        ):
            self.flush()

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

    def _add(self, string: str) -> None:
        """Add text without secrets; called with the lock."""
        if not string:
            return
        shared = OrderedOutStream
        parent = self.parent_header
        segments = shared._segments
        if not segments or segments[-1][1] is not parent or segments[-1][0] != self.name:
            segments.append((self.name, parent, StringIO()))
        segments[-1][2].write(string)
        if shared.black_box is not None:
            shared.black_box.write(self.name, string)
        shared._pending += len(string)
        if not shared._flush_pending:
            self._schedule_flush()

    def redact_with(self, redactor: Redactor) -> None:
        """Keep secrets out of all that is written from now on."""
        with self._segments_lock:
            self._let_go()
            self._redactor = redactor.fork() if redactor else None

    def _let_go(self) -> None:
        if self._redactor is not None:
            self._add(self._redactor.flush())

    def _schedule_flush(self) -> None:
        shared = OrderedOutStream
        shared._flush_pending = True
        pause = max(_TOGETHER, shared._flushed + self.flush_interval - time.monotonic())
        self.pub_thread.schedule(lambda: self._io_loop.call_later(pause, self._flush))

    _flush_pending = False

    def send_soon(self) -> None:
        """Give the IO thread what was written, before all that it is given later."""
        self._flush()

    def _flush(self) -> None:
        if not self._is_master_process():
            super()._flush()
            return
        shared = OrderedOutStream
        # Taken and given in one: another thread that sends in between would overtake what was taken.
        with self._segments_lock:
            shared._flush_pending = False
            segments, position = self._take()
            for index, (name, parent, buffer) in enumerate(segments):
                self.session.pid = os.getpid()
                content = {"name": name, "text": buffer.getvalue()}
                # The last of them takes the host's mark to where the ring was when they were taken.
                metadata = {POSITION_KEY: position} if index == len(segments) - 1 else {}
                message = self.session.msg("stream", content, parent=parent, metadata=metadata)
                self.session.send(self.pub_thread, message, ident=b"stream." + name.encode())
            shared._flushed = time.monotonic()

    def _take(self) -> tuple[list[tuple[str, dict[str, Any], StringIO]], int]:
        shared = OrderedOutStream
        with self._segments_lock:
            segments, shared._segments, shared._pending = shared._segments, [], 0
            return segments, shared.black_box.position if shared.black_box is not None else 0

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
        with self._segments_lock:
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

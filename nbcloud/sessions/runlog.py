"""The journal of one run: numbered messages, appended to a file as JSON lines, the newest also in memory.

A line is ``{"n": 1, "time": …, "msg_type": …, "content": …, "metadata": …}``, with ``buffers`` (base64) and
``parent`` only where there are any. The same bytes go to the file, over the wire and into the record.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import time
from collections import deque
from itertools import islice
from pathlib import Path

STARTED = "nbcloud_started"
FINISHED = "nbcloud_finished"
DROPPED = "nbcloud_dropped"

UNBEGUN = "its session was lost before it began: "
"""Begins the reason of a run of which the journal has heard nothing."""
_KEPT_WHEN_CLOSED = 2**16
_HEAD = re.compile(rb'\{"n":(\d+),("time":[\d.]+,"msg_type":"(\w+)")')

Message = tuple[float, str, bytes, bytes, list[bytes]]
"""When, type, content, metadata and buffers."""


def line(
    number: int,
    when: float,
    kind: str,
    content: bytes,
    metadata: bytes,
    buffers: list[bytes],
    parent: bytes = b"",
) -> bytes:
    """One message as a line; ``content``, ``metadata`` and ``parent`` are JSON already."""
    parts = [
        b'{"n":%d,"time":%.6f,"msg_type":"%s","content":%s,"metadata":%s'
        % (number, when, kind.encode(), content, metadata)
    ]
    if buffers:
        encoded = [base64.b64encode(buffer).decode() for buffer in buffers]
        parts.append(b',"buffers":' + json.dumps(encoded).encode())
    if parent:
        parts.append(b',"parent":' + parent)
    parts.append(b"}\n")
    return b"".join(parts)


def type_of(text: bytes) -> str:
    """The type of a line's message."""
    found = _HEAD.match(text)
    return found[3].decode() if found else ""


def number_of(text: bytes) -> int:
    """The number of a line."""
    found = _HEAD.match(text)
    return int(found[1]) if found else 0


def renumbered(text: bytes, number: int) -> bytes:
    """A line with another number; its content is not read."""
    found = _HEAD.match(text)
    return b'{"n":%d,%b' % (number, text[found.start(2) :]) if found else text


class RunLog:
    """Messages of one run, on the scheduler.

    Parameters
    ----------
    path : Path or None
        The file; None keeps messages in memory only, the oldest dropped past ``memory``.
    memory : int
        Bytes kept in memory.
    """

    def __init__(self, path: Path | None, memory: int) -> None:
        self._path = path
        self._memory = memory
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._file: int | None = None
        self._offsets: list[int] = []
        self._end = 0
        self.count = 0
        self.dropped = 0
        self.closed = False
        self.failure = ""
        self._grown = asyncio.Event()

    def append(
        self,
        kind: str,
        content: bytes,
        metadata: bytes = b"{}",
        buffers: list[bytes] | None = None,
        *,
        when: float | None = None,
        parent: bytes = b"",
    ) -> None:
        """Number a message and keep it."""
        when = time.time() if when is None else when
        self.extend([line(self.count + 1, when, kind, content, metadata, buffers or [], parent)])

    def extend(self, lines: list[bytes]) -> None:
        """Keep lines that have the next numbers, with one write."""
        self.count += len(lines)
        self._write(lines)
        for text in lines:
            self._lines.append(text)
            self._bytes += len(text)
        while self._bytes > self._memory and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft())
            if self.count - len(self._lines) > len(self._offsets):
                self.dropped += 1
        self._grown.set()
        self._grown = asyncio.Event()

    def _write(self, lines: list[bytes]) -> None:
        if self._path is None or self.failure:
            return
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            data = memoryview(b"".join(lines))
            while data.nbytes:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            # From here on memory alone keeps the messages; what the file has stays readable.
            self.failure = f"the journal's disk can't take more ({error.strerror})"
            if self._file is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self._file, self._end)
            return
        for text in lines:
            self._offsets.append(self._end)
            self._end += len(text)

    async def grown(self, after: int) -> None:
        """Wait until there is a message after number ``after``, or the log is closed."""
        while self.count <= after and not self.closed:
            await self._grown.wait()

    def read(self, after: int, limit: int) -> tuple[int, bytes]:
        """Lines after number ``after``, about ``limit`` bytes of them.

        Returns
        -------
        int, bytes
            The number of the last line given (or skipped, if lines were dropped), and the lines.
        """
        first_in_memory = self.count - len(self._lines)
        if after >= first_in_memory:
            return self._from_memory(after, limit)
        why, last = self.failure or "memory is full", first_in_memory
        if after < len(self._offsets):
            try:
                return self._from_file(after, limit)
            except OSError as error:  # somebody removed it
                why, last = f"the journal's file can't be read ({error.strerror})", len(self._offsets)
        gap = json.dumps({"first": after + 1, "last": last, "why": why})
        return last, line(last, time.time(), DROPPED, gap.encode(), b"{}", [])

    def _from_memory(self, after: int, limit: int) -> tuple[int, bytes]:
        start = after - (self.count - len(self._lines))
        taken: list[bytes] = []
        size = 0
        for text in islice(self._lines, start, None):
            if size > limit:
                break
            taken.append(text)
            size += len(text)
        return after + len(taken), b"".join(taken)

    def _from_file(self, after: int, limit: int) -> tuple[int, bytes]:
        start = self._offsets[after]
        last = after
        while last < len(self._offsets) and self._offsets[last] - start <= limit:
            last += 1
        end = self._offsets[last] if last < len(self._offsets) else self._end
        assert self._path is not None  # there are offsets
        with self._path.open("rb") as file:
            file.seek(start)
            return last, file.read(end - start)

    def close(self) -> None:
        """No more messages will come: what the file has needs no place in memory."""
        self.closed = True
        self._grown.set()
        self._close_file()
        if len(self._offsets) == self.count and self._bytes > _KEPT_WHEN_CLOSED:
            self._lines.clear()
            self._bytes = 0

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Forget everything."""
        self.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

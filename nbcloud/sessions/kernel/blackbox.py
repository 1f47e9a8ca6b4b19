"""What a kernel wrote last, where its host can read it after a crash.

Text on its way out of a process is lost when the process dies: some waits in Python, some in ZeroMQ. So each
write also goes into a ring in a file that kernel and host map. Stream messages say up to which position of
the ring they reach; after a crash the host takes the rest from the ring.

The ring holds UTF-8, each piece behind a byte that names its stream and never occurs in UTF-8. Before the
ring stand two positions, counted from the start of the process: up to which it was written, and up to which
the host has it all. The kernel waits before the one is a ring's length ahead of the other.
"""

from __future__ import annotations

import mmap
import os
import re
from itertools import groupby
from operator import itemgetter
from pathlib import Path

SIZE = 2**22
_MARKS = {"stdout": b"\xfe", "stderr": b"\xff"}
_NAMES = {mark: name for name, mark in _MARKS.items()}
_PIECES = re.compile(rb"([\xfe\xff])([^\xfe\xff]*)")
_HEAD = 16
_PIECE = 2**16
"""Bytes of one piece, at most: as many may be half written when a process dies."""
POSITION_KEY = "nbcloud_position"


class BlackBox:
    """The kernel's side: write only.

    Parameters
    ----------
    path : Path
        Made by a `Reader`.
    """

    def __init__(self, path: Path) -> None:
        self._positions, self._ring = _mapped(path)
        self._size = len(self._ring)
        self._room = self._size // 2
        self.position = 0

    @property
    def is_full(self) -> bool:
        """Whether to wait for the host before the next write, which may take up to half of the ring."""
        return self.position - self._positions[1] > self._room

    def write(self, name: str, text: str) -> None:
        """Add text of a stream; called for each piece that a cell prints, so that microseconds count."""
        data = _MARKS[name] + text.encode("utf-8", "replace")
        length = len(data)
        if length > _PIECE:
            for start in range(0, len(text), _PIECE // 8):
                self.write(name, text[start : start + _PIECE // 8])
            return
        begin = self.position % self._size
        end = begin + length
        if end <= self._size:
            self._ring[begin:end] = data
        else:
            first = self._size - begin
            self._ring[begin:] = data[:first]
            self._ring[: length - first] = data[first:]
        # Last: a crash before this leaves the ring as it was.
        self._positions[0] = self.position = self.position + length


class Reader:
    """The host's side.

    Parameters
    ----------
    path : Path
        Is made here.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.truncate(descriptor, SIZE)
        os.close(descriptor)
        self._positions, self._ring = _mapped(path)

    @property
    def written(self) -> int:
        """The position up to which the kernel has written."""
        return self._positions[0]

    def take(self, position: int) -> None:
        """What stands before ``position`` has come to the host, or nobody wants it."""
        self._positions[1] = max(position, self._positions[1])

    def unread(self) -> list[tuple[str, str]]:
        """Stream names and texts behind what was taken."""
        end, size = self.written, len(self._ring)
        position = max(self._positions[1], end - size + _PIECE)
        begin, length = position % size, max(0, end - position)
        # Not all of the ring: most of it was never written, and reading it would take its memory.
        unread = bytes(self._ring[begin : begin + length])
        unread += bytes(self._ring[: length - len(unread)])
        return [
            (_NAMES[mark], b"".join(text for _, text in pieces).decode("utf-8", "replace"))
            for mark, pieces in groupby(_PIECES.findall(unread), key=itemgetter(0))
        ]


def _mapped(path: Path) -> tuple[memoryview, memoryview]:
    """The two positions, and the ring."""
    with path.open("r+b") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0))
    return view[:_HEAD].cast("Q"), view[_HEAD:]

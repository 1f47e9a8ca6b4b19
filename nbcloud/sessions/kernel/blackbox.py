"""What a kernel wrote last, where its host can read it after a crash.

Text on its way out of a process is lost when the process dies: some waits in Python, some in ZeroMQ. So each
write also goes into a ring in a file that kernel and host map. Stream messages say up to which position of
the ring they reach; after a crash the host takes the rest from the ring.

The ring holds UTF-8, each piece behind a byte that names its stream and never occurs in UTF-8. Before the
ring stands the position up to which it was written, counted from the start of the process.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path

SIZE = 2**22
_MARKS = {"stdout": b"\xfe", "stderr": b"\xff"}
_NAMES = {mark: name for name, mark in _MARKS.items()}
_PIECES = re.compile(rb"([\xfe\xff])([^\xfe\xff]*)")
_HEAD = 8
_PIECE = 2**16
"""Bytes of one piece, at most: as many may be half written when a process dies."""
POSITION_KEY = "nbcloud_position"


class BlackBox:
    """The kernel's side: write only.

    Parameters
    ----------
    path : Path
        Made by the host.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._ring = memoryview(mmap.mmap(file.fileno(), 0))
        self._position = self._ring[:_HEAD].cast("Q")
        self._ring = self._ring[_HEAD:]
        self._size = len(self._ring)
        self.position = 0

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
        self._position[0] = self.position = self.position + length


def make_black_box(path: Path) -> None:
    """Make the file, for the host."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.truncate(descriptor, SIZE)
    os.close(descriptor)


def end_of(path: Path) -> int:
    """The position up to which the kernel has written."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(_HEAD), sys.byteorder)


def read_after(path: Path, position: int) -> list[tuple[str, str]]:
    """Stream names and texts that were written after ``position``; what the ring has lost is passed over."""
    data = path.read_bytes()
    end, ring = int.from_bytes(data[:_HEAD], sys.byteorder), data[_HEAD:]
    position = max(position, end - len(ring) + _PIECE)
    if position >= end:
        return []
    begin = position % len(ring)
    unread = (ring[begin:] + ring[:begin])[: end - position]
    return [
        (_NAMES[mark], b"".join(text for _, text in pieces).decode("utf-8", "replace"))
        for mark, pieces in groupby(_PIECES.findall(unread), key=itemgetter(0))
    ]

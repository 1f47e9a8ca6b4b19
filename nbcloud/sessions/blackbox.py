"""What a kernel wrote last, where its host can read it after a crash.

Text on its way out of a process is lost when the process dies: some waits in Python, some in ZeroMQ. So each
write also goes into a ring in a file that kernel and host map. Stream messages say up to which position of
the ring they reach; after a crash the host takes the rest from the ring.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import deque
from pathlib import Path

SIZE = 2**22
_POSITION = struct.Struct("<QQ")
_RECORD = struct.Struct("<BI")
_NAMES = ("stdout", "stderr")
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
            self._map = mmap.mmap(file.fileno(), 0)
        self._size = len(self._map) - _POSITION.size
        self._records: deque[int] = deque()
        self.position = 0

    def write(self, name: str, text: str) -> None:
        """Add text of a stream."""
        data = text.encode("utf-8", "replace")
        for start in range(0, len(data), self._size // 4):
            piece = data[start : start + self._size // 4]
            self._put(_RECORD.pack(_NAMES.index(name), len(piece)) + piece)

    def _put(self, record: bytes) -> None:
        end = self.position + len(record)
        self._records.append(self.position)
        if self._records[0] < end - self._size:
            while self._records[0] < end - self._size:
                self._records.popleft()
            # First: what is about to be overwritten can't be read any more.
            _POSITION.pack_into(self._map, 0, self.position, self._records[0])
        begin = self.position % self._size
        first = min(len(record), self._size - begin)
        base = _POSITION.size
        self._map[base + begin : base + begin + first] = record[:first]
        if first < len(record):
            self._map[base : base + len(record) - first] = record[first:]
        self.position = end
        # Last: a crash before this leaves the ring as it was.
        _POSITION.pack_into(self._map, 0, self.position, self._records[0])


def make_black_box(path: Path) -> None:
    """Make the file, for the host."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.truncate(descriptor, SIZE)
    os.close(descriptor)


def end_of(path: Path) -> int:
    """The position up to which the kernel has written."""
    with path.open("rb") as file:
        return int(_POSITION.unpack(file.read(_POSITION.size))[0])


def read_after(path: Path, position: int) -> list[tuple[str, str]]:
    """Stream names and texts that were written after ``position``; what the ring has lost is passed over."""
    data = path.read_bytes()
    end, oldest = _POSITION.unpack_from(data, 0)
    size = len(data) - _POSITION.size
    position = max(position, oldest)
    if position >= end:
        return []
    ring = data[_POSITION.size :]
    begin = position % size
    unread = (ring[begin:] + ring[:begin])[: end - position]
    found: list[tuple[str, bytearray]] = []
    at = 0
    while at + _RECORD.size <= len(unread):
        index, length = _RECORD.unpack_from(unread, at)
        at += _RECORD.size
        name = _NAMES[index % 2]
        if not found or found[-1][0] != name:
            found.append((name, bytearray()))
        found[-1][1].extend(unread[at : at + length])  # decoded later: a record may end inside a character
        at += length
    return [(name, text.decode("utf-8", "replace")) for name, text in found]

"""What was mapped from a file, and not written to since, is known without another look at its bytes.

Linux tells of each page of a private map whether it is still the file's. Elsewhere, and of all other memory,
nothing is known.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from collections.abc import Sequence
from typing import NamedTuple

_ENTRY = 8
_FLAGS = slice(_ENTRY - 1 if sys.byteorder == "little" else 0, None, _ENTRY)
"""The byte with the flags in each of the entries of ``/proc/self/pagemap``."""
_PRESENT, _SWAPPED, _OF_FILE = 0x80, 0x40, 0x20
_UNWRITTEN = bytes(
    flags
    for flags in range(256)
    if not flags & _SWAPPED and (flags & _OF_FILE or not flags & _PRESENT)  # absent: not even read yet
)


class _Mapped(NamedTuple):
    map: weakref.ref[mmap.mmap]
    places: list[tuple[int, int]]
    content: str


_mapped: dict[int, _Mapped] = {}
"""By the address of the first buffer."""


def remember(buffers: Sequence[memoryview], content: str) -> None:
    """Note what is in buffers that were just mapped, privately, from a file that never changes.

    Parameters
    ----------
    buffers : sequence of memoryview
        Parts of one map; others are passed over.
    content : str
        Their hash.
    """
    source = buffers[0].obj if buffers else None
    if sys.platform != "linux" or not isinstance(source, mmap.mmap):
        return
    if places := _places(buffers):
        key = places[0][0]
        _mapped[key] = _Mapped(weakref.ref(source, lambda gone: _forget(key, gone)), places, content)


def _forget(key: int, gone: weakref.ref[mmap.mmap]) -> None:
    if key in _mapped and _mapped[key].map is gone:  # another map may have the address by now
        del _mapped[key]


def content_of(buffers: Sequence[memoryview]) -> str:
    """The hash of buffers that were mapped and not written to since; empty when that isn't known."""
    places = _places(buffers) if _mapped else []
    known = _mapped.get(places[0][0]) if places else None
    if known is None or known.map() is None or known.places != places:
        return ""
    (start, _), (last, size) = places[0], places[-1]
    return known.content if _is_unwritten(start, last + size) else ""


def _places(buffers: Sequence[memoryview]) -> list[tuple[int, int]]:
    """Addresses and sizes; none when one of the buffers is empty or can't be written to."""
    try:
        return [(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), buffer.nbytes) for buffer in buffers]
    except (TypeError, ValueError):
        return []


def _is_unwritten(start: int, end: int) -> bool:
    first, last = start // mmap.PAGESIZE, (end - 1) // mmap.PAGESIZE
    wanted = (last - first + 1) * _ENTRY
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pages:  # noqa: PTH123 - not a Path's business
            pages.seek(first * _ENTRY)
            entries = pages.read(wanted)
    except OSError:
        return False
    return len(entries) == wanted and not entries[_FLAGS].translate(None, _UNWRITTEN)

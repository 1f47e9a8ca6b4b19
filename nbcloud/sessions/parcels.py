"""Payloads in Jupyter messages: what a message's JSON says of them, and where their bytes are.

An entry's ``data`` and ``buffers`` are positions in the message's list of buffers; large buffers are in a
blob of the spool instead, named by ``blob``.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nbcloud.cells import mappings
from nbcloud.cells.payloads import Payload, decode
from nbcloud.errors import TransferError
from nbcloud.sessions.spool import map_blob, write_blob

INLINE = 2**17
"""Buffers of one payload up to this many bytes travel in the message itself."""


class Blobs(Protocol):
    """Where large buffers are: a spool on this machine, or one on another."""

    def write(self, name: str, buffers: Sequence[memoryview]) -> None:
        """Keep buffers under a name; TransferError when there is no room."""

    def read(self, name: str, sizes: Sequence[int]) -> list[memoryview]:
        """The buffers again, writable; FileNotFoundError when they are gone."""


class SpooledBlobs:
    """Blobs in a spool of this machine.

    Parameters
    ----------
    directory : Path
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, buffers: Sequence[memoryview]) -> None:
        """See `Blobs`."""
        write_blob(self._directory, name, buffers)

    def read(self, name: str, sizes: Sequence[int]) -> list[memoryview]:
        """See `Blobs`."""
        if not name.isalnum():  # anything else could lead out of the spool
            raise TransferError(f"{name!r} is not the name of a blob.")
        return map_blob(self._directory / name, sizes)


class Parcels:
    """The buffers of one message that is being put together.

    Parameters
    ----------
    blobs : Blobs or None
        Where large buffers go; None puts them all into the message.
    """

    def __init__(self, blobs: Blobs | None) -> None:
        self.buffers: list[Any] = []
        self._blobs = blobs

    def add(self, payload: Payload) -> dict[str, Any]:
        """Take in a payload; returns the part of the JSON entry that finds it again."""
        entry: dict[str, Any] = {
            "hash": payload.hash,
            "nbytes": payload.nbytes,
            "data": self._put(payload.data),
            "buffers_hash": payload.buffers_hash,
            "sizes": payload.sizes,
        }
        if self._blobs is not None and sum(entry["sizes"]) > INLINE:
            try:
                self._blobs.write(payload.hash, payload.buffers)
            except TransferError:
                pass  # the spool is full: the slow way still works
            else:
                entry["blob"] = payload.hash
                return entry
        entry["buffers"] = [self._put(buffer) for buffer in payload.buffers]
        return entry

    def _put(self, buffer: Any) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1


def open_parcel(
    entry: dict[str, Any],
    buffers: Sequence[Any],
    blobs: Blobs | None,
    namespace: MutableMapping[str, Any],
) -> dict[str, Any]:
    """The named values of an entry that :meth:`Parcels.add` made.

    Raises
    ------
    FileNotFoundError
        When its blob is gone.
    """
    if "blob" in entry:
        if blobs is None:
            raise FileNotFoundError(entry["blob"])
        parts: list[Any] = list(blobs.read(entry["blob"], entry["sizes"]))
        mappings.remember(parts, entry["buffers_hash"])
    else:
        # A copy of its own, because a message's memory can't be written to.
        parts = [bytearray(buffers[index]) for index in entry["buffers"]]
    return decode(bytes(buffers[entry["data"]]), parts, namespace)

"""Payloads in Jupyter messages: what a message's JSON says of them, and where their bytes are.

An entry's ``data`` and ``buffers`` are positions in the message's list of buffers; large buffers are in a
blob of the spool instead, named by ``blob``.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from nbcloud.cells.payloads import Payload, decode
from nbcloud.errors import TransferError
from nbcloud.sessions.spool import map_blob, write_blob

INLINE = 2**17
"""Buffers of one payload up to this many bytes travel in the message itself."""


class Parcels:
    """The buffers of one message that is being put together.

    Parameters
    ----------
    spool : Path or None
        Where large buffers go; None puts them all into the message.
    """

    def __init__(self, spool: Path | None) -> None:
        self.buffers: list[Any] = []
        self._spool = spool

    def add(self, payload: Payload) -> dict[str, Any]:
        """Take in a payload; returns the part of the JSON entry that finds it again."""
        entry: dict[str, Any] = {"hash": payload.hash, "nbytes": payload.nbytes, "data": self._put(payload.data)}
        sizes = [buffer.nbytes for buffer in payload.buffers]
        if self._spool is not None and sum(sizes) > INLINE:
            try:
                write_blob(self._spool, payload.hash, payload.buffers)
            except TransferError:
                pass  # the spool is full: the slow way still works
            else:
                entry["blob"] = {"file": payload.hash, "sizes": sizes}
                return entry
        entry["buffers"] = [self._put(buffer) for buffer in payload.buffers]
        return entry

    def _put(self, buffer: Any) -> int:
        self.buffers.append(buffer)
        return len(self.buffers) - 1


def open_parcel(
    entry: dict[str, Any],
    buffers: Sequence[Any],
    spool: Path | None,
    namespace: MutableMapping[str, Any],
) -> Any:
    """The value of an entry that :meth:`Parcels.add` made.

    Raises
    ------
    FileNotFoundError
        When its blob is gone.
    """
    if "blob" in entry:
        if spool is None:
            raise FileNotFoundError(entry["blob"]["file"])
        # Names of blobs are hashes; anything else could lead out of the spool.
        if not str(entry["blob"]["file"]).isalnum():
            raise TransferError(f"{entry['blob']['file']!r} is not the name of a blob.")
        parts: list[Any] = list(map_blob(spool / entry["blob"]["file"], entry["blob"]["sizes"]))
    else:
        # A copy of its own, because a message's memory can't be written to.
        parts = [bytearray(buffers[index]) for index in entry["buffers"]]
    return decode(bytes(buffers[entry["data"]]), parts, namespace)

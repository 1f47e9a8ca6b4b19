"""Blobs of a spool on another machine, piece by piece through the journal."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from nbcloud.errors import SessionError, TransferError
from nbcloud.sessions.client.link import Link
from nbcloud.sessions.spool import chunks, layout

_PIECE = 2**22
_UNDER_WAY = 4


class RelayedBlobs:
    """The spool of a session's worker, reached through its journal.

    Parameters
    ----------
    link : Link
    session : str
        The session's id.
    """

    def __init__(self, link: Link, session: str) -> None:
        self._link = link
        self._session = session

    def write(self, name: str, buffers: Sequence[memoryview]) -> None:
        """See `Blobs`."""
        _, total = layout([buffer.nbytes for buffer in buffers])
        pieces = list(chunks(buffers, _PIECE))
        under_way: deque[Future[Any]] = deque()
        writer = secrets.token_hex(4)  # another client may be sending the same
        for index, (offset, piece) in enumerate(pieces):
            if len(under_way) == _UNDER_WAY:
                _wait(under_way.popleft())
            last = index == len(pieces) - 1
            if last:
                while under_way:  # the last piece gives the blob its name
                    _wait(under_way.popleft())
            under_way.append(
                self._ask(
                    "blob_write",
                    name,
                    writer=writer,
                    offset=offset,
                    data=bytes(piece),
                    total=total,
                    last=last,
                )
            )
        while under_way:
            _wait(under_way.popleft())

    def read(self, name: str, sizes: Sequence[int]) -> list[memoryview]:
        """See `Blobs`."""
        offsets, total = layout(sizes)
        whole = memoryview(bytearray(total))
        starts = range(0, total, _PIECE)
        under_way: deque[tuple[int, Future[Any]]] = deque()
        for start in starts:
            if len(under_way) == _UNDER_WAY:
                _put(whole, *under_way.popleft())
            size = min(_PIECE, total - start)
            under_way.append((start, self._ask("blob_read", name, offset=start, size=size)))
        while under_way:
            _put(whole, *under_way.popleft())
        return [whole[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]

    def _ask(self, operation: str, name: str, **fields: Any) -> Future[Any]:
        return self._link.ask_soon(operation, session=self._session, file=name, **fields)


def _wait(future: Future[Any]) -> Any:
    try:
        return future.result()
    except SessionError as error:
        raise TransferError(f"The worker could not take or give a value: {error}") from error


def _put(whole: memoryview, start: int, future: Future[Any]) -> None:
    data = _wait(future)["data"]
    whole[start : start + len(data)] = data

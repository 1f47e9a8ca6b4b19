"""Ordered, two-way streams of small messages over Dask comms that survive a broken connection.

Each side counts what it received. What the other side has not confirmed is kept, and is sent again over the
next connection, so that nothing is lost or doubled by a connection that breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from distributed.comm import Comm, CommClosedError

logger = logging.getLogger(__name__)

PROTOCOL = 10
"""Raised with every change that the other side must know of; the two must be equal."""

SOON = 0.01
"""Seconds that what nobody waits for may stay behind what somebody does wait for."""

_BACKLOG = 2**23
_CONFIRM_BYTES = 2**18
_CONFIRM_SECONDS = 0.5


def _weight(value: Any) -> int:
    """Bytes that a message, or a part of it, takes; roughly."""
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    if isinstance(value, dict):
        return 100 + sum(map(_weight, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_weight, value))
    return 0


class Channel:
    """One side of a stream.

    Parameters
    ----------
    receive : callable
        Called in the event loop with each message of the other side, once and in order.
    """

    def __init__(self, receive: Callable[[dict[str, Any]], None]) -> None:
        self._receive = receive
        self._unconfirmed: deque[tuple[int, dict[str, Any]]] = deque()
        self._weight = 0
        self._unsent = 0
        self._wake = asyncio.Event()
        self._light = asyncio.Event()
        self._light.set()
        self._comm: Comm | None = None
        self._confirmed = 0
        self._owed = 0
        self._later: asyncio.TimerHandle | None = None
        self.received = 0
        self.heard = time.monotonic()
        """When the other side last said anything."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open at this moment."""
        return self._comm is not None

    def post(self, message: dict[str, Any], *, within: float = 0.0) -> None:
        """Send a message after those posted before, now or over the next connection.

        Parameters
        ----------
        message : dict
        within : float
            Seconds that it may wait for others to go with it.
        """
        weight = _weight(message)
        self._unconfirmed.append((weight, message))
        self._unsent += 1
        self._weight += weight
        if self._weight > _BACKLOG:
            self._light.clear()
        if within:
            self._wake_within(within)
        else:
            self._wake.set()

    def _wake_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._later is None or self._later.when() > loop.time() + seconds:
            if self._later is not None:
                self._later.cancel()
            self._later = loop.call_later(seconds, self._wake.set)

    def unconfirmed(self) -> list[dict[str, Any]]:
        """What was posted and the other side has not said to have received."""
        return [message for _, message in self._unconfirmed]

    @property
    def is_light(self) -> bool:
        """Whether the other side has taken most of what was posted."""
        return self._light.is_set()

    async def light(self) -> None:
        """Wait until the other side has taken most of what was posted."""
        await self._light.wait()

    async def run(self, comm: Comm, peer_received: int) -> None:
        """Use ``comm`` until it breaks.

        Parameters
        ----------
        comm : distributed.comm.Comm
            Open, with the handshake done.
        peer_received : int
            How many messages of this side the other has received over earlier connections.
        """
        self.abort()
        # A thread that packs what is large costs more than it saves: it is bytes already.
        comm.allow_offload = False
        self._comm = comm
        self._confirm(peer_received)
        self._unsent = len(self._unconfirmed)
        self._wake.set()
        writer = asyncio.create_task(self._write(comm), name="nbcloud-channel")
        try:
            while True:
                batch = await comm.read()
                if self._comm is not comm:  # another took its place, over which all of this comes again
                    break
                self.heard = time.monotonic()
                self._confirm(batch["received"])
                for message in batch["messages"]:
                    self.received += 1
                    self._owed += _weight(message)
                    self._take(message)
                self._confirm_soon()
        except (CommClosedError, OSError):
            pass
        finally:
            writer.cancel()
            comm.abort()
            if self._comm is comm:
                self._comm = None

    def _take(self, message: dict[str, Any]) -> None:
        try:
            self._receive(message)
        except Exception:
            # One message that can't be dealt with must not cut off all those behind it.
            logger.exception("nbcloud could not deal with a message")

    def _confirm(self, received: int) -> None:
        """Forget what the other side has."""
        while self._confirmed < received and self._unconfirmed:
            weight, _ = self._unconfirmed.popleft()
            self._weight -= weight
            self._confirmed += 1
        if self._weight <= _BACKLOG // 2:
            self._light.set()

    def _confirm_soon(self) -> None:
        """Let the other side forget: at once when it is much, else with the next message or a bit later."""
        if self._owed > _CONFIRM_BYTES:
            self._wake.set()
        elif self._owed:
            self._wake_within(_CONFIRM_SECONDS)

    async def _write(self, comm: Comm) -> None:
        with contextlib.suppress(CommClosedError, OSError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._later is not None:
                    self._later.cancel()
                    self._later = None
                start = len(self._unconfirmed) - self._unsent
                batch = [message for _, message in islice(self._unconfirmed, start, None)]
                self._unsent = 0
                self._owed = 0
                await comm.write({"received": self.received, "messages": batch})
                await _drained(comm)
        comm.abort()

    def abort(self) -> None:
        """Break the connection, if there is one."""
        if self._comm is not None:
            self._comm.abort()
            self._comm = None


async def _drained(comm: Comm) -> None:
    # Comm.write only fills the stream's buffer: a peer that doesn't read must be felt here.
    stream = getattr(comm, "stream", None)
    if stream is not None and stream.writing():
        with contextlib.suppress(OSError):
            await stream.write(b"")

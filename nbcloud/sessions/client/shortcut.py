"""A client's own connection to a worker: its cells need not take the way round by the scheduler.

Only quicker than the journal, never needed: a worker out of reach has none, and when one breaks, the journal
has all that the runs said. Where the two give the same message, its number tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed.comm import Comm, connect

from nbcloud.sessions.channel import PROTOCOL, Channel

_CONNECT_SECONDS = 5.0
_AGAIN_SECONDS = 15.0


class Shortcut:
    """One client's connection to one worker, from now on; belongs to the link's loop.

    Parameters
    ----------
    worker : str
        The worker's address.
    host : str
        The identity of the host that is expected there.
    client : callable
        Gives the client's identity.
    arguments : dict
        For the connection: its certificates.
    receive : callable
        Is given each message.
    broken : callable
        Is given, when the connection breaks, the runs that have not ended and the messages that may not have
        come.
    """

    def __init__(
        self,
        worker: str,
        host: str,
        client: Callable[[], str],
        arguments: dict[str, Any],
        receive: Callable[[dict[str, Any]], None],
        broken: Callable[[list[str], list[dict[str, Any]]], None],
    ) -> None:
        self.runs: dict[str, str] = {}
        """Those that have not ended, and their sessions."""
        self.host = host
        self._worker = worker
        self._client = client
        self._arguments = arguments
        self._receive = receive
        self._broken = broken
        self._channel = Channel(self._received)
        self._serving = asyncio.create_task(self._serve())

    @property
    def over(self) -> bool:
        """Whether it has given up."""
        return self._serving.done()

    def close(self) -> None:
        """Connect no more."""
        self._serving.cancel()

    @property
    def connected(self) -> bool:
        """Whether it can be used at this moment."""
        return self._channel.connected

    async def _serve(self) -> None:
        """Connect, and connect again as long as that succeeds."""
        while True:
            try:
                comm = await self._connect()
            except (OSError, TimeoutError, ValueError):
                return  # out of reach, as the workers of a cluster elsewhere often are
            if comm is None:
                return
            self._channel = Channel(self._received)
            await self._channel.run(comm, 0)
            runs, self.runs = [*self.runs], {}
            self._broken(runs, self._channel.unconfirmed())
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _connect(self) -> Comm | None:
        """The connection, or None when it is another host that answers."""
        comm: Comm = await connect(self._worker, timeout=_CONNECT_SECONDS, **self._arguments)
        hello = {"host": self.host, "protocol": PROTOCOL}
        try:
            await comm.write({"op": "nbcloud_shortcut", "reply": False, "hello": hello})
            async with asyncio.timeout(_CONNECT_SECONDS):
                welcome = await comm.read()
        except BaseException:
            comm.abort()
            raise
        if isinstance(welcome, dict) and welcome.get("shortcut") is True:
            return comm
        comm.abort()
        return None

    def execute(self, request: dict[str, Any]) -> None:
        """Send a run to its session."""
        self.runs[request["run"]] = request["session"]
        self._channel.post({**request, "op": "execute", "client": self._client()})

    def post(self, message: dict[str, Any]) -> None:
        """Say something about a run that was sent here."""
        self._channel.post({**message, "session": self.runs[message["run"]]})

    def _received(self, message: dict[str, Any]) -> None:
        if message["op"] in {"end", "detached"}:
            self.runs.pop(message["run"], None)
        self._receive(message)

"""The way from this process to a scheduler in Kubernetes: through the API server, from a port on 127.0.0.1.

Dask's TLS goes through it end to end, so that who finds the port has found nothing.

kr8s opens the WebSockets. Its own forwards are not used: their port is chosen before it is bound, and a
connection that can't be made is tried again for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.kubernetes import naming, thread
from nbcloud.clusters.kubernetes.api import Api, Manifest, connect
from nbcloud.clusters.kubernetes.naming import PORT, Where
from nbcloud.errors import ClusterLost, NbcloudError

_PIECE = 2**20
_DATA = 0
"""Channel of the bytes; that of errors is odd."""


async def local_address(info: ClusterInfo) -> str:
    """The address at which this process reaches the scheduler; may be awaited in any loop.

    Raises
    ------
    ClusterLost
        When the API server can't be reached.
    """
    return await asyncio.wrap_future(thread.submit(_address(info)))


def trouble(info: ClusterInfo) -> str:
    """Why the latest connection could not be made; empty when it could."""
    return thread.run(_trouble(info))


def close(info: ClusterInfo) -> None:
    """End the way to a cluster, if there is one."""
    thread.run(_close(info.id))


_forwards: dict[str, asyncio.Task[_Forward]] = {}
"""By the cluster's id; belongs to the thread."""


async def _address(info: ClusterInfo) -> str:
    task = _forwards.get(info.id)
    if task is None or (task.done() and (task.cancelled() or task.exception())):
        task = _forwards[info.id] = asyncio.create_task(_start(info))
    return f"tls://127.0.0.1:{(await asyncio.shield(task)).port}"


async def _start(info: ClusterInfo) -> _Forward:
    forward = _Forward(await connect(Where.of(info.options)), info.options["object"])
    await forward.start()
    return forward


async def _trouble(info: ClusterInfo) -> str:
    task = _forwards.get(info.id)
    started = task is not None and task.done() and not task.cancelled() and task.exception() is None
    return task.result().trouble if task is not None and started else ""


async def _close(cluster_id: str) -> None:
    task = _forwards.pop(cluster_id, None)
    if task is None:
        return
    task.cancel()
    with contextlib.suppress(BaseException):
        (await task).close()


@dataclass
class _Forward:
    """A port of this machine that leads to the scheduler of one cluster, whichever pod that is in."""

    place: Api
    name: str
    trouble: str = ""
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, host="127.0.0.1", port=0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Listen no more, and cut what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._carry(reader, writer)
            self.trouble = ""
        except asyncio.CancelledError:
            pass  # a server whose connections raise it would say so on stderr
        except Exception as error:  # noqa: BLE001 - whoever connected sees that it is closed, and may ask why
            self.trouble = _sentence(error)
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on bytes both ways until one side ends."""
        pod = await self._pod()
        params = {
            "name": pod,
            "namespace": self.place.namespace,
            "ports": str(PORT),
            "_preload_content": "false",
        }
        async with self.place.raw.open_websocket(
            version="v1", url=f"pods/{pod}/portforward", namespace=self.place.namespace, params=params
        ) as socket:
            self.trouble = ""
            ways = [asyncio.create_task(way) for way in (_up(reader, socket), _down(socket, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _pod(self) -> str:
        """The scheduler's pod at this moment."""
        labels = {naming.CLUSTER: self.name, naming.COMPONENT: "scheduler"}
        pods = [pod for pod in await self.place.find("Pod", labels) if _runs(pod)]
        if not pods:
            raise ClusterLost("The scheduler's pod does not run.")
        return str(pods[-1]["metadata"]["name"])


def _runs(pod: Manifest) -> bool:
    ending = pod["metadata"].get("deletionTimestamp")
    return not ending and pod.get("status", {}).get("phase") == "Running"


async def _up(reader: asyncio.StreamReader, socket: Any) -> None:
    while data := await reader.read(_PIECE):
        await socket.send_bytes(bytes([_DATA]) + data)


async def _down(socket: Any, writer: asyncio.StreamWriter) -> None:
    greeted: set[int] = set()
    while True:
        message = await socket.receive_bytes()
        channel = message[0]
        if channel not in greeted:  # the first of each channel is the number of the port
            greeted.add(channel)
        elif channel == _DATA:
            writer.write(message[1:])
            await writer.drain()
        else:
            raise ConnectionError(message[1:].decode(errors="replace"))


def _sentence(error: Exception) -> str:
    if isinstance(error, NbcloudError):
        return error.message.rstrip(".")
    response = getattr(error, "response", None)
    if response is not None:  # the server refused to make it a WebSocket
        return f"Kubernetes refuses the connection ({response.status_code})"
    return f"{type(error).__name__}: {error}".rstrip(": ")

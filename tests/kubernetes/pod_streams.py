"""Logs of pods, and connections to their ports."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path

from aiohttp import WSMsgType, web

from tests.kubernetes import errors
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.store import Object, Store


class PodStreams:
    """The subresources of pods that are streams."""

    def __init__(self, store: Store, kubelet: Kubelet) -> None:
        self._store, self._kubelet = store, kubelet

    async def log(self, request: web.Request, pod: Object) -> web.StreamResponse:
        name, query = pod["metadata"]["name"], request.query
        names = [
            each["name"] for each in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]
        ]
        container = query.get("container") or names[0]
        if container not in names:
            raise errors.bad_request(f"container {container} is not valid for pod {name}")
        if not query.get("container") and len(pod["spec"]["containers"]) > 1:
            raise errors.bad_request(
                f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
            )
        previous = query.get("previous") in ("true", "1")
        file = self._kubelet.log_file(pod, container, previous)
        if file is None and previous:
            raise errors.bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        if file is None:
            raise errors.bad_request(
                f'container "{container}" in pod "{name}" is waiting to start: {self._why(pod, container)}'
            )
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await self._send(
            response, file, pod, container, query.get("follow") in ("true", "1"), query.get("tailLines")
        )
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _send(
        self,
        response: web.StreamResponse,
        file: Path,
        pod: Object,
        container: str,
        follow: bool,
        tail: str | None,
    ) -> None:
        with file.open("rb") as stream, contextlib.suppress(ConnectionError):
            text = stream.read()
            if tail is not None:
                text = b"".join(text.splitlines(keepends=True)[-int(tail) :]) if int(tail) else b""
            await response.write(text)
            while follow:
                finished = not self._kubelet.writes(pod, container, file)
                if text := stream.read():
                    await response.write(text)
                elif finished:
                    return
                else:
                    await asyncio.sleep(0.05)

    @staticmethod
    def _why(pod: Object, container: str) -> str:
        for status in pod.get("status", {}).get("containerStatuses", ()):
            if status["name"] == container:
                reason = status["state"].get("waiting", {}).get("reason", "ContainerCreating")
                if reason in ("ErrImagePull", "ImagePullBackOff"):
                    return "trying and failing to pull image"
                return str(reason)
        return "ContainerCreating"

    async def portforward(self, request: web.Request, pod: Object) -> web.StreamResponse:
        """One websocket is one connection: even channels carry data, the odd one after each its errors."""
        ports = [int(port) for value in request.query.getall("ports", []) for port in value.split(",")]
        if not ports:
            raise errors.bad_request("query parameter 'ports' is required")
        if pod.get("status", {}).get("phase") != "Running":
            raise errors.bad_request(
                f"unable to forward port because pod is not running. Current status={pod['status']['phase']}"
            )
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await socket.prepare(request)
        writers: dict[int, asyncio.StreamWriter] = {}
        pumps: list[asyncio.Task[None]] = []
        try:
            for index, port in enumerate(ports):
                for channel in (2 * index, 2 * index + 1):
                    await socket.send_bytes(bytes([channel]) + struct.pack("<H", port))
                try:
                    reader, writers[2 * index] = await asyncio.open_connection(pod["status"]["podIP"], port)
                except OSError as error:
                    await socket.send_bytes(bytes([2 * index + 1]) + self._refusal(pod, port, error).encode())
                else:
                    pumps.append(asyncio.create_task(self._pump(socket, reader, 2 * index)))
            pumps.append(asyncio.create_task(self._close_with(pod, socket)))
            async for message in socket:
                if message.type is WSMsgType.BINARY and (writer := writers.get(message.data[0])):
                    writer.write(message.data[1:])
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for writer in writers.values():
                writer.close()
            await asyncio.gather(*pumps, return_exceptions=True)
        return socket

    @staticmethod
    async def _pump(socket: web.WebSocketResponse, reader: asyncio.StreamReader, channel: int) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(256 * 1024):
                await socket.send_bytes(bytes([channel]) + data)
        with contextlib.suppress(ConnectionError):
            await socket.close()

    async def _close_with(self, pod: Object, socket: web.WebSocketResponse) -> None:
        await self._kubelet.gone(pod)
        with contextlib.suppress(ConnectionError):
            await socket.close()

    @staticmethod
    def _refusal(pod: Object, port: int, error: OSError) -> str:
        uid = pod["metadata"]["uid"]
        return (
            f"error forwarding port {port} to pod {uid.replace('-', '')}, uid : failed to execute portforward in network "
            f'namespace "/var/run/netns/cni-{uid}": failed to connect to localhost:{port} inside namespace: {error}'
        )

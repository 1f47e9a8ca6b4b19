"""Services: an address each, where connections are passed on to pods that are ready."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from tests.kubernetes.deployments import is_ready
from tests.kubernetes.matching import object_labels_match
from tests.kubernetes.store import Object, Store

Listening = tuple[str, int]


class ServiceProxy:
    """A proxy of TCP for each port of each service; as long as no pod is ready nothing listens."""

    watches = frozenset({"services", "pods"})

    def __init__(self, store: Store, names: Path) -> None:
        self._store, self._names = store, names
        self._servers: dict[Listening, asyncio.Server] = {}
        self._ports: dict[Listening, tuple[Object, Object]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._again = asyncio.Event()
        self._serving = asyncio.create_task(self._serve())

    def sync(self) -> None:
        self._ports = {
            (service["spec"]["clusterIP"], port["port"]): (service, port)
            for service in self._store.list("services")
            for port in service["spec"].get("ports", ())
            if service["spec"].get("clusterIP") not in (None, "None")
        }
        lines = {
            f"{service['spec']['clusterIP']} {service['metadata']['name']} {service['metadata']['namespace']}"
            for service, _ in self._ports.values()
        }
        new = self._names.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in sorted(lines)))
        new.replace(self._names)
        self._again.set()

    async def _serve(self) -> None:
        """Servers are opened and closed in one place, one after the other."""
        while True:
            await self._again.wait()
            self._again.clear()
            wanted = {key for key, (service, port) in self._ports.items() if self._endpoints(service, port)}
            for key in self._servers.keys() - wanted:
                self._servers.pop(key).close()
            for key in wanted - self._servers.keys():
                try:
                    self._servers[key] = await asyncio.start_server(
                        lambda reader, writer, key=key: self._accept(key, reader, writer), *key
                    )
                except OSError as error:
                    self._store.record_event(
                        self._ports[key][0], "FailedToListen", str(error), "kube-proxy", "Warning"
                    )

    def _endpoints(self, service: Object, port: Object) -> list[Listening]:
        found = []
        selector = service["spec"].get("selector")
        for pod in self._store.list("pods", service["metadata"]["namespace"]):
            chosen = selector and object_labels_match(
                {"matchLabels": selector}, pod["metadata"].get("labels")
            )
            if not chosen or "deletionTimestamp" in pod["metadata"]:
                continue
            if not is_ready(pod) and not service["spec"].get("publishNotReadyAddresses"):
                continue
            target = port["targetPort"]
            if isinstance(target, str):
                named = [
                    each["containerPort"]
                    for container in pod["spec"]["containers"]
                    for each in container.get("ports") or ()
                    if each.get("name") == target
                ]
                target = named[0] if named else None
            if target and pod["status"].get("podIP"):
                found.append((pod["status"]["podIP"], int(target)))
        return found

    async def _accept(
        self, key: Listening, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            service, port = self._ports[key]
            there, back = await asyncio.open_connection(*random.choice(self._endpoints(service, port)))
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except (OSError, LookupError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def close(self) -> None:
        self._serving.cancel()
        for server in self._servers.values():
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(self._serving, *self._connections, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            writer.close()

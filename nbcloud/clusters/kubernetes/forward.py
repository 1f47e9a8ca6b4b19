"""The way from this process to a scheduler in Kubernetes: through the API server, to a port on 127.0.0.1.

Dask's TLS goes through it end to end, so that who finds the port has found nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.kubernetes import api, thread
from nbcloud.clusters.kubernetes.naming import PORT, Where
from nbcloud.errors import ClusterLost


@dataclass
class _Open:
    """One forward, and what it would not live without."""

    place: api.Api
    forward: Any
    port: int


_forwards: dict[str, asyncio.Task[_Open]] = {}
"""By the cluster's id; belongs to the thread."""


async def local_address(info: ClusterInfo) -> str:
    """The address at which this process reaches the scheduler; may be awaited in any loop.

    Raises
    ------
    ClusterLost
        When the API server can't be reached, or the scheduler's service is gone.
    """
    return await asyncio.wrap_future(thread.submit(_address(info)))


async def _address(info: ClusterInfo) -> str:
    task = _forwards.get(info.id)
    if task is None or (task.done() and (task.cancelled() or task.exception())):
        task = _forwards[info.id] = asyncio.create_task(_start(info))
    return f"tls://127.0.0.1:{(await asyncio.shield(task)).port}"


async def _start(info: ClusterInfo) -> _Open:
    import kr8s
    from kr8s.asyncio.objects import Service

    place = await api.connect(Where.of(info.options))
    name = f"{info.options['object']}-scheduler"
    try:
        service = await Service.get(name, namespace=place.namespace, api=place.raw, timeout=2)
    except (kr8s.NotFoundError, kr8s.ServerError):
        raise ClusterLost(
            f"The cluster {info.name!r} has no scheduler any more in Kubernetes.",
            f"Type: %cloud up {info.name}",
        ) from None
    # For each connection it looks anew for the pod behind the service, which may be another one by then.
    forward = service.portforward(PORT, "auto")
    return _Open(place, forward, int(await forward.start()))


def close(info: ClusterInfo) -> None:
    """End the way to a cluster, if there is one."""
    thread.run(_close(info.id))


async def _close(cluster_id: str) -> None:
    task = _forwards.pop(cluster_id, None)
    if task is not None and not task.done():
        task.cancel()
    elif task is not None and not task.cancelled() and task.exception() is None:
        with contextlib.suppress(asyncio.InvalidStateError):
            await task.result().forward.stop()

"""One question to a scheduler, from any thread, with a time limit."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nbcloud.clusters import process
from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.routes import route
from nbcloud.errors import ClusterLost


def ask(info: ClusterInfo, op: str, *, timeout: float = 5.0, **message: Any) -> Any:
    """Ask the scheduler of ``info`` to do ``op``, one of its handlers, and return the answer.

    Raises
    ------
    ClusterLost
        When it is gone, or gives no answer within ``timeout`` seconds. Its cause is the transport's error.
    """
    if info.pid is not None and not process.is_alive(info.pid, info.started):
        raise ClusterLost(
            f"The cluster {info.name!r} is gone (its process was {info.pid}).", f"Type: %cloud up {info.name}"
        )
    # A notebook's thread already runs an event loop, so that the question is asked from another thread.
    executor = ThreadPoolExecutor(1, thread_name_prefix="nbcloud-ask")
    try:
        return executor.submit(lambda: asyncio.run(_ask(info, op, timeout, message))).result()
    finally:
        executor.shutdown(wait=False)  # an interrupt does not wait for the answer


async def _ask(info: ClusterInfo, op: str, timeout: float, message: dict[str, Any]) -> Any:
    from distributed.core import send_recv

    try:
        async with asyncio.timeout(timeout):
            comm = await _connect(info, timeout)
            try:
                return await send_recv(comm, op=op, **message)
            finally:
                comm.abort()
    except OSError as error:  # TimeoutError and CommClosedError are OSErrors too
        raise ClusterLost(
            f"The scheduler of the cluster {info.name!r} at {info.address} gives no answer ({timeout:g} s).",
            f"If it stays so, type: %cloud down {info.name}",
        ) from error
    finally:
        _close_sockets()


def _close_sockets() -> None:
    """Close what Dask and tornado leave open when a handshake hangs: nobody else holds it."""
    from tornado.ioloop import IOLoop

    loop: Any = IOLoop.current()
    for descriptor, (open_file, _) in list(loop.handlers.items()):
        loop.remove_handler(descriptor)
        loop.close_fd(open_file)


async def _connect(info: ClusterInfo, timeout: float) -> Any:
    from distributed.comm import connect
    from distributed.security import Security

    security = info.security() or Security()
    try:
        return await connect(await route(info), timeout=timeout, **security.get_connection_args("client"))
    except OSError:
        raise
    except Exception as error:
        # What is no Dask server sends bytes that the handshake reads as it can: any error may come of it.
        raise ConnectionError(f"{type(error).__name__}: {error}") from error

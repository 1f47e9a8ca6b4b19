"""The first words between a client and a cluster's scheduler, and what brings the journal there."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

from distributed.comm import Comm, connect
from distributed.core import rpc

from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.routes import route
from nbcloud.config import settings
from nbcloud.errors import VersionSkew
from nbcloud.sessions.channel import PROTOCOL
from nbcloud.sessions.host.arrival import Arriving
from nbcloud.sessions.journal.journal import PLUGIN, Journal

CONNECT_SECONDS = 10.0


def arguments(info: ClusterInfo) -> dict[str, Any]:
    """For connections to a cluster: the client's certificates."""
    security = info.security()
    return security.get_connection_args("client") if security else {}


async def greet(info: ClusterInfo, hello: dict[str, Any]) -> tuple[Comm, dict[str, Any] | None]:
    """Connect to a scheduler's journal.

    Returns
    -------
    Comm, dict or None
        The connection, and the journal's answer; None when the scheduler has no journal yet.

    Raises
    ------
    OSError, TimeoutError
        When nobody answers.
    VersionSkew
        When the journal is of another protocol.
    """
    comm = await _connect(info)
    try:
        await comm.write({"op": "nbcloud_client", "hello": hello})
        async with asyncio.timeout(CONNECT_SECONDS):
            welcome = await comm.read()
        if not isinstance(welcome, dict) or "protocol" not in welcome:
            return comm, None
        if welcome["protocol"] != PROTOCOL:
            raise VersionSkew(
                f"The cluster {info.name!r} runs nbcloud {welcome.get('version', '?')} (protocol "
                f"{welcome['protocol']}), and this is protocol {PROTOCOL}.",
                f"Start it anew: %cloud down {info.name}, then %cloud up.",
            )
    except BaseException:
        comm.abort()
        raise
    return comm, welcome


async def _connect(info: ClusterInfo) -> Comm:
    address = await route(info)
    try:
        comm: Comm = await connect(address, timeout=CONNECT_SECONDS, **arguments(info))
    except OSError:
        raise
    except Exception as error:
        # Of a connection that is closed in the middle of its handshake, tornado and Dask make many things.
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    return comm


async def install(info: ClusterInfo) -> None:
    """Bring the journal to the scheduler and a host to each worker, now and later."""
    local = info.directory if info.kind == "local" else None
    directory = str(Path(local) / "journal") if local else None
    host = Arriving(settings().preload)
    journal = Journal(directory, settings().journal_memory)
    async with rpc(await route(info), connection_args=arguments(info)) as scheduler:
        await scheduler.register_scheduler_plugin(plugin=pickle.dumps(journal), name=PLUGIN, idempotent=True)
        await scheduler.register_worker_plugin(plugin=pickle.dumps(host), name=PLUGIN, idempotent=True)

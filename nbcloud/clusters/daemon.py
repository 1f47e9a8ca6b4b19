"""The process that is a local cluster: ``python -m nbcloud.clusters.daemon DIRECTORY``.

It reads what to be from ``DIRECTORY/spec.json``, tells its phases in ``DIRECTORY/phase``, and puts its
address into the registry when all is up. It ends by itself when nothing ran for long enough, when somebody
closed the scheduler, or when the registry no longer knows it, because then nobody can find it any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbcloud
from nbcloud.clusters import certificates, process, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.wording import counted

if TYPE_CHECKING:
    from nbcloud.clusters.nodes import Nodes

logger = logging.getLogger(__name__)

# Fork only on Linux: on macOS the system's own libraries do not survive it.
_METHOD = "forkserver" if sys.platform == "linux" else "spawn"

_SOCKET_PATH = 107  # bytes that the path of a socket may have
_LOG_LIMIT = 2**24

_CONFIG: dict[str, Any] = {
    # What a user's own Dask configuration must not change here. Ports without TLS, and code that opens them:
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.scheduler.preload": [],
    "distributed.worker.preload": [],
    "distributed.nanny.preload": [],
    "distributed.scheduler.contact-address": None,
    "distributed.comm.tls.ciphers": None,
    "distributed.comm.tls.min-version": 1.2,
    "distributed.comm.tls.max-version": None,
    "scheduler-address": None,
    # Limits that end a scheduler or worker while sessions live on it:
    "distributed.scheduler.idle-timeout": None,
    "distributed.scheduler.no-workers-timeout": None,
    "distributed.worker.lifetime.duration": None,
    # What sessions need to be allowed:
    "distributed.scheduler.blocked-handlers": [],
    "distributed.worker.blocked-handlers": [],
    # Dask sets OMP_NUM_THREADS=1 and the like, which every kernel would inherit: a cell is to see the
    # threads and the allocator that it has locally.
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.worker.multiprocessing-method": _METHOD,
}


def main(directory: str) -> None:
    """Be the cluster of that directory until it ends."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder = Path(directory)
    _start_forkserver(folder)
    info = ClusterInfo.from_json((folder / "spec.json").read_text(encoding="utf-8"))
    _phase(info, "starting the scheduler")
    asyncio.run(_run(info))
    # Not reached after an error: then the log is still to be read.
    registry.remove(info.name, info.id, folder.parent)
    registry.remove_directory(info, folder.parent)


def _start_forkserver(folder: Path) -> None:
    """Start the process that workers are forked from, so that it imports Dask while this one does.

    A worker then starts in a tenth of the time, at the start and after it was killed.
    """
    if _METHOD != "forkserver":
        return
    import multiprocessing
    import tempfile
    from multiprocessing import forkserver

    # Its socket is removed with the rest, even after a SIGKILL; unless the path is too long for a socket.
    if len(os.fsencode(folder)) < _SOCKET_PATH - len("/pymp-12345678/listener-12345678"):
        tempfile.tempdir = str(folder)
    multiprocessing.set_forkserver_preload(["distributed", "nbcloud.clusters.nodes"])
    forkserver.ensure_running()


async def _run(info: ClusterInfo) -> None:
    main_task = asyncio.current_task()
    assert main_task is not None
    if sys.platform != "win32":
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, _once(main_task.cancel))
        # Handlers, not SIG_IGN: that would be inherited by the kernels.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
    with suppress(asyncio.CancelledError):
        await _serve(info)


def _once(call: Any) -> Any:
    """A second signal must not cut short the end that the first one began."""
    calls = iter([call])
    return lambda: next(calls, lambda: None)()


async def _serve(info: ClusterInfo) -> None:
    import dask
    from distributed import utils

    # Dask would import numpy and pandas here to preload them, for nothing.
    utils._forkserver_preload_set = True
    dask.config.set(_CONFIG)
    logging.getLogger("distributed").setLevel(logging.WARNING)
    info = replace(_sized(info), tls=certificates.write(certificates.make(), Path(info.directory or "")))

    from nbcloud.clusters.nodes import Nodes

    nodes = Nodes(info.security(), _worker_options(info))
    try:
        await nodes.start_scheduler()
        _phase(info, f"starting {counted(info.workers, 'worker')}")
        await nodes.scale(info.workers)
        nodes.scheduler.handlers["nbcloud_scale"] = lambda n: _scale(nodes, info, n)
        if _registered(info):
            registry.put(replace(info, address=nodes.scheduler.address), _where(info))
            await _watch(nodes, info)
    finally:
        await nodes.close()


def _sized(info: ClusterInfo) -> ClusterInfo:
    """``info`` with what was left open, by the size of this machine or container."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    workers = info.workers or min(max(CPU_COUNT, 2), 4)
    return replace(
        info,
        pid=os.getpid(),
        started=process.birth(os.getpid()) or "",
        workers=workers,
        threads=info.threads or max(1, CPU_COUNT // workers),
        memory=info.memory or MEMORY_LIMIT // workers,
        version=nbcloud.__version__,
    )


def _worker_options(info: ClusterInfo) -> dict[str, Any]:
    from dask.system import CPU_COUNT

    asked = info.options.get("resources") or {}
    return {
        "nthreads": info.threads,
        "memory_limit": info.memory,
        "resources": {"CPU": max(info.threads, CPU_COUNT / info.workers), "MEMORY": info.memory, **asked},
        "local_directory": str(Path(info.directory or "") / "scratch"),
        "silence_logs": logging.WARNING,
    }


def _where(info: ClusterInfo) -> Path:
    return Path(info.directory or "").parent


def _phase(info: ClusterInfo, text: str) -> None:
    registry.write_private(Path(info.directory or "") / "phase", text)


def _registered(info: ClusterInfo) -> bool:
    """Whether the registry still knows this cluster; one that can't be read says nothing against it."""
    try:
        entry = registry.get(info.name, _where(info))
    except Exception:
        logger.exception("The registry can't be read")
        return True
    return entry is not None and entry.id == info.id


async def _scale(nodes: Nodes, info: ClusterInfo, n: int) -> dict[str, Any]:
    """Handle ``nbcloud_scale``: have ``n`` workers, and let the registry know."""
    try:
        await nodes.scale(n)
    except Exception as error:
        logger.exception("Could not scale to %s workers", n)
        return {"error": f"{type(error).__name__}: {error}"}
    entry = registry.get(info.name, _where(info))
    if entry is not None and entry.id == info.id:
        options = {**entry.options, "workers": n}
        registry.put(replace(entry, workers=n, options=options), _where(info))
        registry.remember(info.name, options, _where(info))
    return {"workers": n}


def _shorten_log(path: Path) -> None:
    """Keep only the newer half of a log that is too long; every process of the cluster appends to it."""
    with suppress(OSError):
        if path.stat().st_size <= _LOG_LIMIT:
            return
        with path.open("a+b") as file:
            file.seek(-_LOG_LIMIT // 2, os.SEEK_END)
            _, _, newer = file.read().partition(b"\n")
            file.truncate(0)
            file.write(newer)


async def _watch(nodes: Nodes, info: ClusterInfo) -> None:
    """Return when the cluster is to end."""
    from nbcloud.clusters.nodes import Idleness

    idle = Idleness(nodes.scheduler)
    period = min(info.idle_timeout / 4, 5) if info.idle_timeout else 5
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(period):
                await nodes.scheduler.finished()
                return
        if info.idle_timeout and idle.seconds() > info.idle_timeout:
            logger.warning("Nothing ran for %g s: the cluster stops", info.idle_timeout)
            return
        if not _registered(info):
            logger.warning("The registry knows this cluster no more: it stops")
            return
        _shorten_log(Path(info.directory or "") / "daemon.log")
        try:
            await nodes.mend()
        except Exception:
            logger.exception("A worker could not be replaced; trying again")


if __name__ == "__main__":
    main(sys.argv[1])

"""Which cluster is meant, whatever its kind: the door through which everything else reaches clusters."""

from __future__ import annotations

from typing import Any

from nbcloud.clusters import existing, local, registry, wire
from nbcloud.clusters.base import Backend, ClusterInfo, Progress, silent
from nbcloud.config import settings
from nbcloud.errors import ClusterLost, ClusterNotFound

_BACKENDS: dict[str, Backend] = {"local": local, "existing": existing}


def resolve(name: str | None = None, *, start: bool = True, progress: Progress = silent) -> ClusterInfo:
    """Return the cluster that is meant, live.

    Parameters
    ----------
    name : str, optional
        A registered name, or an address; by default the setting ``cluster``.
    start : bool
        Whether to start ``local`` when it is not up, and any local cluster that ended by itself, as it was.
    progress : callable
        Is told what takes time.

    Raises
    ------
    ClusterNotFound
        When there is none of that name, or nothing at that address.
    ClusterLost
        When it is registered, not ours to start, and gone.
    """
    name = name or settings().cluster
    if "://" in name:
        return _at(name, progress)
    info = registry.get(name)
    if info is None or info.kind == "local":
        return _local(name, info, start, progress)
    if not existing.alive(info):
        raise ClusterLost(
            f"Nothing listens any more at {info.address}, the scheduler of {name!r}.",
            f"Start it again where it belongs, or type: %cloud down {name}",
        )
    return info


def status(info: ClusterInfo, *, timeout: float = 5.0) -> dict[str, Any]:
    """Ask the scheduler how the cluster is.

    Returns
    -------
    dict
        ``address``, and ``workers``: for each its ``address``, ``name``, ``nthreads``, ``memory_limit`` and
        ``memory`` in use (bytes), ``cpu`` (percent), ``resources``, ``pid`` (None when unknown) and
        ``last_seen`` (seconds since the epoch).

    Raises
    ------
    ClusterLost
        When it gives no answer within ``timeout`` seconds.
    """
    identity = wire.ask(info, "identity", timeout=timeout)
    return {
        "address": identity["address"],
        "workers": [_worker(*item) for item in identity["workers"].items()],
    }


def alive(info: ClusterInfo) -> bool:
    """Whether the cluster is there; see `Backend`."""
    return _BACKENDS[info.kind].alive(info)


def down(info: ClusterInfo) -> None:
    """End a cluster that is ours, forget one that is not."""
    _BACKENDS[info.kind].down(info)


def scale(info: ClusterInfo, n: int) -> ClusterInfo:
    """Give the cluster ``n`` workers, where its size is ours to choose."""
    return _BACKENDS[info.kind].scale(info, n)


def _at(address: str, progress: Progress) -> ClusterInfo:
    for info in registry.entries():
        if info.address == address and alive(info):
            return info
    return existing.up(address, progress=progress)


def _local(name: str, info: ClusterInfo | None, start: bool, progress: Progress) -> ClusterInfo:
    if info is not None and local.alive(info):
        return info if info.ready else local.up(name, progress=progress)
    options = registry.recall(name)
    if not start or (info is None and options is None and name != "local"):
        raise _not_found(name)
    if options is None:
        options = info.options if info is not None else {}
    return local.up(name, **options, progress=progress)


def _not_found(name: str) -> ClusterNotFound:
    names = [info.name for info in registry.entries()]
    there = f"there are: {', '.join(names)}" if names else "none is up"
    return ClusterNotFound(
        f"No cluster named {name!r} is up; {there}.", f"Type: %cloud up {name}", names=names
    )


def _worker(address: str, identity: dict[str, Any]) -> dict[str, Any]:
    metrics = identity.get("metrics") or {}
    return {
        "address": address,
        "name": identity["name"],
        "nthreads": identity["nthreads"],
        "memory_limit": identity["memory_limit"],
        "memory": metrics.get("memory"),
        "cpu": metrics.get("cpu"),
        "resources": dict(identity["resources"]),
        "pid": identity.get("pid"),
        "last_seen": identity["last_seen"],
    }

"""Which cluster is meant, whatever its kind: the door through which everything else reaches clusters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nbcloud.clusters import existing, local, registry, wire
from nbcloud.clusters.base import DEFAULT_GROUP, Backend, ClusterInfo, Progress, TLSFiles, silent
from nbcloud.clusters.kubernetes import backend as kubernetes
from nbcloud.config import settings
from nbcloud.config.profiles import ExistingProfile, KubernetesProfile, LocalProfile, Profile, names, profile
from nbcloud.errors import ClusterLost, ClusterNotFound, UsageError

_BACKENDS: dict[str, Backend] = {"local": local, "existing": existing, "kubernetes": kubernetes}


def resolve(name: str | None = None, *, start: bool = True, progress: Progress = silent) -> ClusterInfo:
    """Return the cluster that is meant, live.

    Parameters
    ----------
    name : str, optional
        A registered name, or an address; by default the setting ``cluster``.
    start : bool
        Whether to start ``local`` when it is not up, and any local cluster that ended by itself, as it was;
        and to register the scheduler of a profile. What costs money is started by `up` only.
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
    kind = info.kind if info is not None else getattr(profile(name), "kind", "local")
    if kind == "kubernetes":
        return _on_kubernetes(name, info)
    if info is None and kind == "existing" and start:
        return up(name, progress=progress)
    if info is None or info.kind == "local":
        return _local(name, info, start, progress)
    if not existing.alive(info):
        raise ClusterLost(
            f"Nothing listens any more at {info.address}, the scheduler of {name!r}.",
            f"Start it again where it belongs, or type: %cloud down {name}",
        )
    return info


def meant(name: str | None) -> tuple[ClusterInfo, str]:
    """The cluster that a command is about, which starts none.

    Where none is named and the default one is not up, but exactly one other is, that one is meant.

    Returns
    -------
    ClusterInfo
    str
        A sentence that tells which it is, where the name does not; else empty.

    Raises
    ------
    ClusterNotFound, ClusterLost
        As `resolve`.
    """
    try:
        return resolve(name, start=False), ""
    except ClusterNotFound:
        if name:
            raise
        others = [info.name for info in registry.entries()]
        if len(others) != 1:
            raise
    info = resolve(others[0], start=False)
    return info, f"The default cluster, {settings().cluster!r}, is not up; this is {info.name!r}."


def up(name: str, *, progress: Progress = silent, **options: Any) -> ClusterInfo:
    """Bring a cluster up by the name of its profile, or a local one of any name.

    Parameters
    ----------
    options
        What `local.up` takes, over what the profile says; ``workers`` and ``idle_timeout`` for Kubernetes.

    Raises
    ------
    ClusterStartError
        When it does not come up; the message says why.
    UsageError
        When the name is near that of a profile, and nothing else says that a local cluster is meant.
    """
    known: Profile | None = profile(name)
    given = {option: value for option, value in options.items() if value is not None}
    match known:
        case ExistingProfile():
            return existing.up(known.address, name, tls=_files(known), progress=progress)
        case KubernetesProfile():
            return kubernetes.up(name, _with(known, given), progress=progress)
        case LocalProfile():
            of_profile = {
                option: getattr(known, option)
                for option in ("workers", "threads", "memory", "idle_timeout", "resources")
            }
            return local.up(name, **{**of_profile, **given}, progress=progress)
    if "workers" not in given:
        _refuse_misspelled(name)
    return local.up(name, **given, progress=progress)


def look(name: str, known: ExistingProfile, *, progress: Progress = silent) -> ClusterInfo:
    """Whether the scheduler of a profile answers; nothing is registered.

    Raises
    ------
    ClusterNotFound, UsageError
        The message says what is there instead.
    """
    return existing.look(known.address, name, tls=_files(known), progress=progress)


def _files(known: ExistingProfile) -> TLSFiles | None:
    files = (known.tls_ca, known.tls_cert, known.tls_key)
    return TLSFiles(*files) if all(files) else None


def dry_run(name: str, **options: Any) -> list[dict[str, Any]]:
    """What `up` would ask of Kubernetes.

    Raises
    ------
    UsageError
        For what is no profile of kind ``kubernetes``, and options that `up` would refuse.
    """
    known = profile(name)
    if known is None:
        raise UsageError(
            f"There is no profile {name!r}, and --dry-run is for profiles of kind kubernetes.",
            _did_you_mean(name, names()) or "See: %cloud profiles",
        )
    if not isinstance(known, KubernetesProfile):
        raise UsageError(
            f"--dry-run is for profiles of kind kubernetes, and {name!r} is of kind {known.kind}.",
            "See: %cloud profiles",
        )
    given = {option: value for option, value in options.items() if value is not None}
    return kubernetes.dry_run(name, _with(known, given))


def _refuse_misspelled(name: str) -> None:
    if name == "local" or registry.get(name) is not None or registry.recall(name) is not None:
        return
    hint = _did_you_mean(name, names())
    if hint:
        raise UsageError(
            f"There is no profile {name!r}.",
            f"{hint} For a local cluster of that name, say how large: %cloud up {name} --workers 2",
        )


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else ""


def _with(known: KubernetesProfile, given: dict[str, Any]) -> KubernetesProfile:
    """A profile with what was asked for over it."""
    unfit = sorted(given.keys() - {"workers", "idle_timeout"})
    if unfit:
        raise UsageError(
            f"--{unfit[0]} is not for clusters on Kubernetes.", "Set it in the profile, in nbcloud.toml."
        )
    workers = known.workers
    if "workers" in given:
        most = max(workers.most, given["workers"])
        workers = replace(workers, minimum=given["workers"], maximum=most)
    return replace(known, workers=workers, idle_timeout=given.get("idle_timeout", known.idle_timeout))


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


def come_back(info: ClusterInfo, progress: Progress) -> bool:
    """Wait until a scheduler that did not answer does; returns whether that can be waited for at all.

    Raises
    ------
    ClusterStartError
        When it does not come back in time, with the reason.
    """
    if info.kind != "kubernetes":
        return False
    kubernetes.come_back(info, progress=progress)
    return True


def down(info: ClusterInfo) -> None:
    """End a cluster that is ours, forget one that is not."""
    _BACKENDS[info.kind].down(info)


def scale(
    info: ClusterInfo, n: int, group: str = DEFAULT_GROUP, *, progress: Progress = silent
) -> ClusterInfo:
    """Give a group of the cluster's workers ``n`` of them; see `Backend`."""
    return _BACKENDS[info.kind].scale(info, n, group, progress=progress)


def follow(info: ClusterInfo, group: str = DEFAULT_GROUP) -> None:
    """Have the number of a group's workers follow the work again; see `Backend`."""
    _BACKENDS[info.kind].follow(info, group)


def _at(address: str, progress: Progress) -> ClusterInfo:
    for info in registry.entries():
        if info.address == address and alive(info):
            return info
    return existing.up(address, progress=progress)


def _on_kubernetes(name: str, info: ClusterInfo | None) -> ClusterInfo:
    if info is not None and kubernetes.alive(info):
        return info
    found = kubernetes.find(name) if info is None or profile(name) is not None else None
    if found is not None:
        return found
    if info is not None:
        registry.discard(info)
    raise _not_found(name)


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
    up_now = [info.name for info in registry.entries()]
    down_now = [each for each in names() if each not in up_now]
    there = f"there are: {', '.join(up_now)}" if up_now else "none is up"
    others = [each for each in down_now if each != name]
    profiles = f" Profiles that are not up: {', '.join(others)}." if others else ""
    hint = "" if name in down_now else _did_you_mean(name, [*up_now, *down_now])
    return ClusterNotFound(
        f"No cluster named {name!r} is up; {there}.{profiles}",
        hint or f"Type: %cloud up {name}",
        names=up_now,
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

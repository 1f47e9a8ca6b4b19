"""Clusters on Kubernetes as one of the kinds of clusters: up, found again, scaled, down."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import sys
import time

from nbcloud.clusters import registry, wire
from nbcloud.clusters.base import DEFAULT_GROUP, ClusterInfo, Progress, silent
from nbcloud.clusters.kubernetes import forward, manifests, naming, phases, thread
from nbcloud.clusters.kubernetes.api import ENDING, POLL, Manifest, connect
from nbcloud.clusters.kubernetes.creation import start
from nbcloud.clusters.kubernetes.discovery import discover, find, identity, is_there
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.clusters.kubernetes.readiness import when_ready
from nbcloud.config.profiles import KubernetesProfile, profile
from nbcloud.errors import ClusterError, NbcloudError, UsageError
from nbcloud.wording import counted

__all__ = ["alive", "come_back", "discover", "down", "dry_run", "find", "follow", "scale", "troubles", "up"]


def up(name: str, settings: KubernetesProfile, *, progress: Progress = silent) -> ClusterInfo:
    """Bring the cluster of a profile up, or find it up, and return it when its workers are there.

    Parameters
    ----------
    name : str
        The profile's name, which is the cluster's, too.
    settings : KubernetesProfile
    progress : callable
        Is told each phase, and what keeps a pod from running.

    Raises
    ------
    ClusterStartError
        When it does not come up, with the reason that Kubernetes gives; nothing is left of it.
    ClusterLost, ClusterError
        When Kubernetes can't be reached, or refuses.
    """

    def waiting() -> None:
        progress(f"waiting for another process that starts or ends {name!r}")

    with registry.lock(name, timeout=settings.start_timeout, waiting=waiting):
        made: list[ClusterInfo] = []
        try:
            found = find(name, settings)
            started = found is None
            if found is None:
                found, started = start(name, settings, progress, made)
            expected = found.workers if started else 0
            joined = when_ready(found, settings, expected, progress)
        except BaseException:
            for each in made:
                progress("removing what was made of it")
                _end(each)
            raise
    if started and settings.shutdown_on_close and _in_notebook():
        atexit.register(_end, joined)
    return joined


def come_back(info: ClusterInfo, *, progress: Progress = silent) -> None:
    """Wait until the scheduler of a cluster answers that is up, as after its pod was started anew.

    Raises
    ------
    ClusterStartError
        When it does not within the profile's ``start_timeout``, with the reason that Kubernetes gives.
    """
    known = profile(info.name)
    when_ready(info, known if isinstance(known, KubernetesProfile) else KubernetesProfile(), 0, progress)


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; a command in a shell ends at once."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def alive(info: ClusterInfo) -> bool:
    """Whether Kubernetes still has it.

    Raises
    ------
    ClusterLost, ClusterError
        When Kubernetes can't be asked.
    """
    return thread.run(is_there(info))


def down(info: ClusterInfo) -> None:
    """Delete it with all that belongs to it, and forget it."""
    try:
        thread.run(_delete(info))
    finally:
        forward.close(info)
    registry.discard(info)


def scale(
    info: ClusterInfo, n: int, group: str = DEFAULT_GROUP, *, progress: Progress = silent
) -> ClusterInfo:
    """Have ``n`` workers in a group; idle ones go before one with a session, pending ones before all.

    One on which something runs goes when that has ended; ``progress`` is told how many stay for that, and how
    the group comes to follow the work again.

    Raises
    ------
    UsageError
        For less than no worker, or a group that there is not.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise UsageError(f"The number of workers can't be {n!r}.", "Give a whole number, 0 or more.")
    least, most = _span(info, group)
    if most > least and n > most:
        raise UsageError(
            f"The group {group!r} of {info.name!r} may have {most} workers at most.",
            "Its profile says so; a cluster that is up keeps what it was started with.",
        )
    busy = thread.run(_scale(info, n, group))
    progress(f"The group {group!r} of {info.name!r} goes to {counted(n, 'worker')}; see %cloud status.")
    if busy:
        progress(f"{counted(busy, 'worker')} will go when what runs there has ended.")
    if most > least:
        which = "" if group == DEFAULT_GROUP else f" -g {group}"
        progress(f"It stays at that; to follow the work again: %cloud scale auto -c {info.name}{which}")
    return info


def follow(info: ClusterInfo, group: str = DEFAULT_GROUP) -> None:
    """Have a group follow the work again, within the numbers of its profile.

    Raises
    ------
    UsageError
        For a group that there is not, or that has one number only.
    ClusterError
        When the cluster may not change its own number of workers.
    """
    least, most = _span(info, group)
    if most == least:
        raise UsageError(
            f"The profile of {info.name!r} gives the group {group!r} a fixed number of workers: {least}.",
            "Set its maximum in nbcloud.toml before the cluster's next start, or give a number.",
        )
    if not wire.ask(info, "nbcloud_follow", group=group):
        raise ClusterError(
            f"The workers of {info.name!r} can't follow the work: its account may not change their number.",
            "See: nbcloud kubernetes rbac",
        )


def _span(info: ClusterInfo, group: str) -> tuple[int, int]:
    """How many workers a group may have, at least and at most, as the cluster was started."""
    groups = info.options["groups"]
    if group not in groups:
        raise UsageError(
            f"The cluster {info.name!r} has no group {group!r}.", f"There are: {', '.join(sorted(groups))}."
        )
    return groups[group]["minimum"], groups[group]["maximum"]


def troubles(info: ClusterInfo) -> list[phases.Trouble]:
    """What keeps parts of it from running, as Kubernetes sees it now."""
    return thread.run(_troubles(info))


async def _troubles(info: ClusterInfo) -> list[phases.Trouble]:
    return (await phases.look(await connect(Where.of(info.options)), info.options["object"])).troubles


def dry_run(name: str, settings: KubernetesProfile) -> list[Manifest]:
    """What `up` would apply, without secrets; asks Kubernetes for nothing but the namespace's name."""
    namespace = settings.namespace or _namespace_here(settings)
    return manifests.plan(name, settings, namespace, ("", "", "")).shown()


def _namespace_here(settings: KubernetesProfile) -> str:
    with contextlib.suppress(NbcloudError):
        return thread.run(connect(Where.of(settings))).namespace
    return "default"


def _end(info: ClusterInfo) -> None:
    with contextlib.suppress(Exception):
        down(info)


# --- change and end --------------------------------------------------------------------------------------


async def _delete(info: ClusterInfo) -> None:
    place = await connect(Where.of(info.options))
    name = info.options["object"]
    if await is_there(info):
        await place.delete("DaskCluster", name)
    deadline = time.monotonic() + ENDING
    while (left := await place.get("DaskCluster", name)) is not None and identity(left) == info.id:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"The cluster {info.name!r} is to be deleted, but after {ENDING:g} s it is not: "
                "the operator of dask-kubernetes seems not to run.",
                "See: nbcloud doctor",
            )
        await asyncio.sleep(POLL)


async def _scale(info: ClusterInfo, n: int, group: str) -> int:
    """Have the operator add workers; take away ourselves, because it would choose among all groups."""
    place = await connect(Where.of(info.options))
    group_object = f"{info.options['object']}-{group}"
    labels = {naming.CLUSTER: info.options["object"], naming.GROUP: group_object}
    there = [each["metadata"]["name"] for each in await place.find("Deployment", labels)]
    asked = {"group": group, "n": n, "candidates": there}
    answer = await asyncio.to_thread(lambda: wire.ask(info, "nbcloud_scale", timeout=60.0, **asked))
    await asyncio.gather(*(place.delete("Deployment", name) for name in answer["going"]))
    replicas = {"spec": {"worker": {"replicas": answer["replicas"]}}}
    await place.patch("DaskWorkerGroup", group_object, replicas)
    return int(answer["busy"])

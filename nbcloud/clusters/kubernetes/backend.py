"""Clusters on Kubernetes as one of the kinds of clusters: up, found again, scaled, down."""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import json
import time

from nbcloud.clusters import certificates, registry, wire
from nbcloud.clusters.base import ClusterInfo, Progress, silent
from nbcloud.clusters.kubernetes import forward, manifests, naming, phases, thread
from nbcloud.clusters.kubernetes.api import Api, Manifest, Refused, connect
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.config import private_dir
from nbcloud.config.profiles import KubernetesProfile, profile, profiles
from nbcloud.errors import (
    ClusterError,
    ClusterLost,
    ClusterNotFound,
    ClusterStartError,
    NbcloudError,
    UsageError,
)
from nbcloud.wording import counted

_POLL = 0.1
_ANSWER = 3.0
_GONE = 20.0
_LOG_LINES = 15


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
    with registry.lock(name, timeout=settings.start_timeout):
        found = find(name, settings)
        started = found is None
        if found is None:
            found = _start(name, settings, progress)
        try:
            expected = found.workers if started else 0
            joined = _when_ready(found, settings, expected, progress)
        except BaseException:
            if started:
                progress("removing what was made of it")
                _end(found)
            raise
    if started and settings.shutdown_on_close:
        atexit.register(_end, joined)
    return joined


def find(name: str, settings: KubernetesProfile | None = None) -> ClusterInfo | None:
    """The cluster of a profile as Kubernetes knows it, registered here; None when there is none."""
    settings = settings or _profile(name)
    made = thread.run(_found(name, settings))
    if made is None:
        _forget_other(name, "")
        return None
    info, texts = made
    _forget_other(name, info.id)
    known = registry.get(name)
    if known is not None and known.id == info.id:
        return known
    return _register(info, texts)


def discover() -> list[ClusterInfo]:
    """The clusters of all profiles that there are in Kubernetes; those that can't be asked are left out."""
    found = []
    for name, (settings, _) in profiles().items():
        if isinstance(settings, KubernetesProfile):
            with contextlib.suppress(NbcloudError):
                info = find(name, settings)
                if info is not None:
                    found.append(info)
    return found


def alive(info: ClusterInfo) -> bool:
    """Whether Kubernetes still has it.

    Raises
    ------
    ClusterLost, ClusterError
        When Kubernetes can't be asked.
    """
    return thread.run(_is_there(info))


def down(info: ClusterInfo) -> None:
    """Delete it with all that belongs to it, and forget it."""
    try:
        thread.run(_delete(info))
    finally:
        forward.close(info)
    registry.discard(info)


def scale(info: ClusterInfo, n: int, group: str = "default", *, progress: Progress = silent) -> ClusterInfo:
    """Have ``n`` workers in a group; idle ones go before one with a session, pending ones before all.

    One on which something runs goes when that has ended; ``progress`` is told how many stay for that.

    Raises
    ------
    UsageError
        For less than no worker, or a group that there is not.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < (1 if group == "default" else 0):
        raise UsageError(f"The number of workers can't be {n!r}.", "Give a whole number of at least 1.")
    groups = info.options["groups"]
    if group not in groups:
        raise UsageError(
            f"The cluster {info.name!r} has no group {group!r}.", f"There are: {', '.join(sorted(groups))}."
        )
    busy = thread.run(_scale(info, n, group))
    progress(f"{counted(busy, 'worker')} stay until what runs there has ended" if busy else "")
    return info


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


def _profile(name: str) -> KubernetesProfile:
    settings = profile(name)
    if not isinstance(settings, KubernetesProfile):
        raise ClusterNotFound(f"There is no profile {name!r} of kind kubernetes.", "See: %cloud profiles")
    return settings


def _end(info: ClusterInfo) -> None:
    with contextlib.suppress(Exception):
        down(info)


def _forget_other(name: str, cluster_id: str) -> None:
    """Forget an entry of that name which Kubernetes has no more."""
    known = registry.get(name)
    if known is not None and known.kind == "kubernetes" and known.id != cluster_id:
        forward.close(known)
        registry.discard(known)


# --- found -----------------------------------------------------------------------------------------------


async def _found(name: str, settings: KubernetesProfile) -> tuple[ClusterInfo, certificates.Texts] | None:
    place = await connect(Where.of(settings))
    wanted = naming.object_name(name, settings)
    cluster = await place.get("DaskCluster", wanted)
    if cluster is None or cluster["metadata"].get("deletionTimestamp"):
        return None
    labels = cluster["metadata"].get("labels", {})
    if not naming.MANAGED_BY.items() <= labels.items():
        raise UsageError(
            f"Kubernetes has a DaskCluster {wanted!r} in {place.namespace!r} that nbcloud did not make.",
            f"Give profiles.{name} another cluster_name.",
        )
    secret = await place.get("Secret", f"{wanted}-tls")
    if secret is None:
        raise ClusterError(
            f"The cluster {name!r} has lost its certificates: there is no Secret {wanted}-tls.",
            f"Remove it: kubectl delete daskcluster {wanted} -n {place.namespace}",
        )
    texts = tuple(base64.b64decode(secret["data"][key]).decode() for key in manifests.TLS_KEYS)
    return _info(name, settings, place, cluster), texts  # type: ignore[return-value]


def _info(name: str, settings: KubernetesProfile, place: Api, cluster: Manifest) -> ClusterInfo:
    metadata = cluster["metadata"]
    facts = json.loads(metadata.get("annotations", {}).get(naming.FACTS, "{}"))
    groups = facts.get("groups", {})
    first = groups.get("default", {})
    created = time.strptime(metadata["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    import calendar

    return ClusterInfo(
        name=name,
        id=_id(cluster),
        kind="kubernetes",
        address=f"tls://{naming.scheduler_host(metadata['name'], place.namespace)}:{naming.PORT}",
        created=float(calendar.timegm(created)),
        host="",
        workers=sum(group.get("minimum", 0) for group in groups.values()),
        threads=first.get("threads", 0),
        memory=first.get("memory", 0),
        idle_timeout=settings.idle_timeout,
        version=facts.get("version", ""),
        options={
            "object": metadata["name"],
            "kubeconfig": settings.kubeconfig,
            "context": place.context,
            "namespace": place.namespace,
            "groups": groups,
        },
    )


def _id(cluster: Manifest) -> str:
    """What tells a cluster from one of the same name before or after it."""
    return str(cluster["metadata"]["uid"]).replace("-", "")[:8]


def _register(info: ClusterInfo, texts: certificates.Texts) -> ClusterInfo:
    from dataclasses import replace

    directory = private_dir(registry.folder() / f"{info.name}-{info.id}")
    info = replace(info, directory=str(directory), tls=certificates.write(texts, directory))
    registry.put(info)
    return info


async def _is_there(info: ClusterInfo) -> bool:
    place = await connect(Where.of(info.options))
    cluster = await place.get("DaskCluster", info.options["object"])
    return (
        cluster is not None and _id(cluster) == info.id and not cluster["metadata"].get("deletionTimestamp")
    )


# --- start -----------------------------------------------------------------------------------------------


def _start(name: str, settings: KubernetesProfile, progress: Progress) -> ClusterInfo:
    texts = certificates.make()
    info = thread.run(_create(name, settings, texts, progress))
    return _register(info, texts)


async def _create(
    name: str, settings: KubernetesProfile, texts: certificates.Texts, progress: Progress
) -> ClusterInfo:
    place = await connect(Where.of(settings))
    progress(f"asking Kubernetes for the cluster, in the namespace {place.namespace!r}")
    plan = manifests.plan(name, settings, place.namespace, texts)
    try:
        try:
            await _apply(place, plan.before)
        except Refused as error:
            if error.code != 403 or settings.service_account or "role" not in error.message:
                raise
            await _withdraw(place, plan.before)
            plan = manifests.plan(name, settings, place.namespace, texts, account=False)
            progress(
                "you may not make roles there: workers stay at their minimum, and it does not end when idle "
                "(see: nbcloud kubernetes rbac)"
            )
            await _apply(place, plan.before)
        cluster = await _make_cluster(place, plan.cluster)
    except BaseException:
        await asyncio.shield(_withdraw(place, plan.before))
        raise
    try:
        owner = {
            "apiVersion": cluster["apiVersion"],
            "kind": cluster["kind"],
            "name": cluster["metadata"]["name"],
            "uid": cluster["metadata"]["uid"],
        }
        owned = {"metadata": {"ownerReferences": [owner]}}
        await asyncio.gather(
            *(place.patch(made["kind"], made["metadata"]["name"], owned) for made in plan.before)
        )
    except BaseException:
        await asyncio.shield(place.delete("DaskCluster", plan.name))
        await asyncio.shield(_withdraw(place, plan.before))
        raise
    return _info(name, settings, place, cluster)


async def _make_cluster(place: Api, manifest: Manifest) -> Manifest:
    """Make the ``DaskCluster``, once one of the same name that is ending has gone."""
    deadline = time.monotonic() + _GONE
    while True:
        try:
            return await place.create(manifest)
        except Refused as error:
            before = await place.get("DaskCluster", manifest["metadata"]["name"])
            ending = before is None or before["metadata"].get("deletionTimestamp")
            if error.code != 409 or not ending or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_POLL)


async def _apply(place: Api, parts: list[Manifest]) -> None:
    outcomes = await asyncio.gather(*(place.make(part) for part in parts), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _withdraw(place: Api, parts: list[Manifest]) -> None:
    """Remove what nothing owns yet."""
    deletions = (place.delete(part["kind"], part["metadata"]["name"]) for part in parts)
    await asyncio.gather(*deletions, return_exceptions=True)


def _when_ready(
    info: ClusterInfo, settings: KubernetesProfile, expected: int, progress: Progress
) -> ClusterInfo:
    """Wait until the scheduler answers and every worker has joined that finds a node."""
    deadline = time.monotonic() + settings.start_timeout
    since: dict[tuple[str, str], float] = {}
    place = thread.run(connect(Where.of(info.options)))
    complete = False
    while True:
        seen = thread.run(phases.look(place, info.options["object"]))
        if seen.phase == "gone":
            raise ClusterStartError(f"The cluster {info.name!r} was deleted while it started.")
        _give_up(place, info, seen, since)
        complete = complete or thread.run(_complete(place, info, settings))
        # Whether an operator acts shows only after a while.
        told = [trouble.text for trouble in seen.troubles if trouble.kind != "operator"]
        phase = "; ".join([seen.phase, *dict.fromkeys(told)])
        if seen.running.get("scheduler"):
            joined = _joined(info)
            wanted = max(expected, sum(n for about, n in seen.wanted.items() if about != "scheduler"))
            if joined is not None and complete and _is_enough(joined, wanted, seen):
                return info
            if joined is not None and not seen.troubles:
                phase = f"{joined} of {wanted} workers have joined"
        progress(phase)
        if time.monotonic() > deadline:
            raise ClusterStartError(
                f"The cluster {info.name!r} did not come up within {settings.start_timeout:g} s: {phase}.",
                next((trouble.hint for trouble in seen.troubles if trouble.hint), "See: nbcloud doctor"),
            )
        time.sleep(_POLL)


async def _complete(place: Api, info: ClusterInfo, settings: KubernetesProfile) -> bool:
    """Make the groups of workers that are lacking; returns whether none is.

    Not before the scheduler's service is there: a worker that can't find its address ends, and is not started
    again at once.
    """
    if not settings.groups:
        return True
    name = info.options["object"]
    if await place.get("Service", f"{name}-scheduler") is None:
        return False
    there = {each["metadata"]["name"] for each in await place.find("DaskWorkerGroup", {naming.CLUSTER: name})}
    wanted = manifests.plan(info.name, settings, place.namespace, ("", "", "")).groups
    lacking = [group for group in wanted if group["metadata"]["name"] not in there]
    await asyncio.gather(*(place.make(group) for group in lacking))
    return True


def _is_enough(joined: int, wanted: int, seen: phases.Look) -> bool:
    kept = sum(trouble.kind == "node" and trouble.about != "scheduler" for trouble in seen.troubles)
    return joined >= wanted - kept and (joined > 0 or wanted == 0)


def _joined(info: ClusterInfo) -> int | None:
    """How many workers the scheduler has; None while it does not answer."""
    try:
        return len(wire.ask(info, "identity", timeout=_ANSWER)["workers"])
    except ClusterLost:
        if "403" in (refusal := forward.trouble(info)):
            raise ClusterError(
                f"Kubernetes lets you not through to the scheduler: {refusal}.",
                "See: nbcloud kubernetes rbac",
            ) from None
        return None


def _give_up(place: Api, info: ClusterInfo, seen: phases.Look, since: dict[tuple[str, str], float]) -> None:
    """Raise when something has been wrong for longer than it may."""
    now = time.monotonic()
    current = {(trouble.about, trouble.kind): trouble for trouble in reversed(seen.troubles)}
    for key in [key for key in since if key not in current]:
        del since[key]
    for key, trouble in reversed(current.items()):
        if now - since.setdefault(key, now) < trouble.patience:
            continue
        log = thread.run(_log_of(place, trouble.pod)) if trouble.pod else ""
        ending = f"; its log ends with:\n{log}\n" if log else "."
        raise ClusterStartError(
            f"The cluster {info.name!r} does not come up: {trouble.text}{ending}", trouble.hint, log=log
        )


async def _log_of(place: Api, pod: str) -> str:
    text = await place.log(pod, lines=_LOG_LINES, previous=True)
    return text or await place.log(pod, lines=_LOG_LINES)


# --- change and end --------------------------------------------------------------------------------------


async def _delete(info: ClusterInfo) -> None:
    place = await connect(Where.of(info.options))
    name = info.options["object"]
    if await _is_there(info):
        await place.delete("DaskCluster", name)
        # Kubernetes collects what the cluster owned; but what was made before it may not have got its owner.
        await _withdraw(place, manifests.parts_before(name))
    deadline = time.monotonic() + _GONE
    while (left := await place.get("DaskCluster", name)) is not None and _id(left) == info.id:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"The cluster {info.name!r} is to be deleted, but after {_GONE:g} s it is not: "
                "the operator of dask-kubernetes seems not to run.",
                "See: nbcloud doctor",
            )
        await asyncio.sleep(_POLL)


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

"""Which clusters there are: Kubernetes knows, and the registry keeps what this machine needs of it."""

from __future__ import annotations

import asyncio
import base64
import calendar
import contextlib
import json
import time
from dataclasses import replace

from nbcloud.clusters import certificates, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.kubernetes import forward, manifests, naming, thread
from nbcloud.clusters.kubernetes.api import Api, Manifest, connect
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.config import private_dir
from nbcloud.config.profiles import KubernetesProfile, profile, readable
from nbcloud.errors import ClusterError, ClusterNotFound, NbcloudError, UsageError

_POLL = 0.1
_PATIENCE = 3.0


def find(name: str, settings: KubernetesProfile | None = None) -> ClusterInfo | None:
    """The cluster of a profile as Kubernetes knows it, registered here; None when there is none.

    Raises
    ------
    ClusterError
        When a cluster of that name is up on another Kubernetes, or can't be used.
    """
    settings = settings or _profile(name)
    known = registry.get(name)
    made = thread.run(_found(name, settings))
    if known is not None and known.kind == "kubernetes" and (made is None or made[0].id != known.id):
        _forget(known)
    if made is None:
        return None
    info, texts = made
    return known if known is not None and known.id == info.id else register(info, texts)


def discover() -> list[ClusterInfo]:
    """The clusters of all profiles that there are in Kubernetes; those that can't be asked are left out."""
    found = []
    for name, settings in readable().items():
        if isinstance(settings, KubernetesProfile):
            with contextlib.suppress(NbcloudError):
                info = find(name, settings)
                if info is not None:
                    found.append(info)
    return found


def _forget(known: ClusterInfo) -> None:
    """Forget an entry, when the Kubernetes that it is of has it no more.

    Raises
    ------
    ClusterError
        When that has it still: the profile, or the kubeconfig, has changed under it.
    """
    if thread.run(is_there(known)):
        where = f"the namespace {known.options['namespace']!r} of {known.options.get('server', 'Kubernetes')}"
        raise ClusterError(
            f"{known.name!r} is up already, in {where}, where the profile does not point any more.",
            f"To end it: %cloud down {known.name}",
        )
    forward.close(known)
    registry.discard(known)


def _profile(name: str) -> KubernetesProfile:
    settings = profile(name)
    if not isinstance(settings, KubernetesProfile):
        raise ClusterNotFound(f"There is no profile {name!r} of kind kubernetes.", "See: %cloud profiles")
    return settings


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
    if not settings.cluster_name and labels.get(naming.OWNER) != naming.owner():
        raise UsageError(
            f"The cluster {wanted!r} in {place.namespace!r} is of {labels.get(naming.OWNER)!r}, not yours.",
            f"To use it together, or to have another: give profiles.{name} a cluster_name.",
        )
    texts = await _texts(place, wanted)
    if texts is None:
        await place.delete("DaskCluster", wanted)  # of a start that was killed: nobody can ever use it
        return None
    try:
        return describe(name, settings, place, cluster), texts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"The DaskCluster {wanted!r} in {place.namespace!r} is not as nbcloud made it ({error}).",
            f"Remove it: kubectl delete daskcluster {wanted} -n {place.namespace}",
        ) from None


async def _texts(place: Api, cluster: str) -> certificates.Texts | None:
    """The certificates of a cluster; another process may be about to make them."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        secret = await place.get("Secret", f"{cluster}-tls")
        data = (secret or {}).get("data") or {}
        if all(key in data for key in manifests.TLS_KEYS):
            ca, cert, key = (base64.b64decode(data[key]).decode() for key in manifests.TLS_KEYS)
            return ca, cert, key
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(_POLL)


def describe(name: str, settings: KubernetesProfile, place: Api, cluster: Manifest) -> ClusterInfo:
    """What the registry keeps of a ``DaskCluster``."""
    metadata = cluster["metadata"]
    facts = json.loads(metadata.get("annotations", {}).get(naming.FACTS, "{}"))
    groups = facts.get("groups", {})
    first = groups.get("default", {})
    created = time.strptime(metadata["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
    return ClusterInfo(
        name=name,
        id=identity(cluster),
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
            # As they were: KUBECONFIG may be another when it is asked again.
            "kubeconfig": place.kubeconfig,
            "context": place.context,
            "namespace": place.namespace,
            "server": place.server,
            "groups": groups,
        },
    )


def identity(cluster: Manifest) -> str:
    """What tells a cluster from one of the same name before or after it."""
    return str(cluster["metadata"]["uid"]).replace("-", "")[:8]


def register(info: ClusterInfo, texts: certificates.Texts) -> ClusterInfo:
    """Keep an entry and its certificates."""
    directory = private_dir(registry.folder() / f"{info.name}-{info.id}")
    info = replace(info, directory=str(directory), tls=certificates.write(texts, directory))
    registry.put(info)
    return info


async def is_there(info: ClusterInfo) -> bool:
    """Whether Kubernetes has it, and is not about to remove it."""
    place = await connect(Where.of(info.options))
    cluster = await place.get("DaskCluster", info.options["object"])
    return (
        cluster is not None
        and identity(cluster) == info.id
        and not cluster["metadata"].get("deletionTimestamp")
    )

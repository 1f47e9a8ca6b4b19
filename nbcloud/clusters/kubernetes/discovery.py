"""Which clusters there are: Kubernetes knows, and the registry keeps what this machine needs of it."""

from __future__ import annotations

import asyncio
import base64
import calendar
import json
import time
from dataclasses import replace
from pathlib import Path

from nbcloud.clusters import certificates, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.kubernetes import forward, manifests, naming, thread
from nbcloud.clusters.kubernetes.api import POLL, Api, Manifest, connect
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.config import private_dir
from nbcloud.config.profiles import KubernetesProfile, profile, readable
from nbcloud.errors import ClusterError, ClusterLost, ClusterNotFound, NbcloudError, UsageError

_COMPLETE = 3.0
"""Seconds after which a cluster without certificates counts as one of a start that was killed."""

_Made = tuple[ClusterInfo, certificates.Texts | None]
"""A cluster that Kubernetes has, with its certificates where they were asked for."""


def find(name: str, settings: KubernetesProfile | None = None) -> ClusterInfo | None:
    """The cluster of a profile as Kubernetes knows it, registered here; None when there is none.

    Raises
    ------
    ClusterError
        When a cluster of that name is up on another Kubernetes, or can't be used.
    """
    settings = settings or _profile(name)
    known = _known(name)
    return _keep(known, thread.run(_look(name, settings, known)))


def discover(limit: float = 5.0) -> dict[str, NbcloudError]:
    """Ask all at once for the clusters of profiles and registry; what is found or gone is so in the registry.

    Parameters
    ----------
    limit : float
        Seconds after which nobody waits for an answer any more.

    Returns
    -------
    dict
        Why it is not known what there is, by the names of profiles and clusters of which that is so.
    """
    wanted: dict[str, KubernetesProfile | None] = {
        info.name: None for info in registry.entries() if info.kind == "kubernetes"
    }
    wanted |= {name: each for name, each in readable().items() if isinstance(each, KubernetesProfile)}
    if not wanted:
        return {}
    asked = [(name, _known(name), settings) for name, settings in wanted.items()]
    answers = thread.run(_look_at_all(asked, limit))
    failed = {}
    for (name, known, _), answer in zip(asked, answers, strict=True):
        if isinstance(answer, NbcloudError):
            failed[name] = answer
        else:
            _keep(known, answer)
    return failed


async def _look_at_all(
    asked: list[tuple[str, ClusterInfo | None, KubernetesProfile | None]], limit: float
) -> list[_Made | NbcloudError | None]:
    async def one(
        name: str, known: ClusterInfo | None, settings: KubernetesProfile | None
    ) -> _Made | NbcloudError | None:
        try:
            async with asyncio.timeout(limit):
                return await _look(name, settings, known)
        except TimeoutError:
            return ClusterLost(
                f"Its Kubernetes gave no answer within {limit:g} s.",
                "Is a VPN to join, or the context another?",
            )
        except NbcloudError as error:
            return error

    return await asyncio.gather(*(one(name, known, settings) for name, known, settings in asked))


async def _look(name: str, settings: KubernetesProfile | None, known: ClusterInfo | None) -> _Made | None:
    """The cluster of a profile, or the one that is known, as Kubernetes has it; None when it has none.

    Raises
    ------
    ClusterError
        When the Kubernetes of another one that is known has that still: the profile, or the kubeconfig, has
        changed under it.
    """
    if settings is None:
        return (known, None) if known is not None and await is_there(known) else None
    made = await _found(name, settings)
    if known is not None and (made is None or made[0].id != known.id) and await is_there(known):
        where = f"the namespace {known.options['namespace']!r} of {known.options.get('server', 'Kubernetes')}"
        raise ClusterError(
            f"{known.name!r} is up already, in {where}, where the profile does not point any more.",
            f"To end it: %cloud down {known.name}",
        )
    return made


def _keep(known: ClusterInfo | None, made: _Made | None) -> ClusterInfo | None:
    """Have the registry say what Kubernetes says."""
    if known is not None and (made is None or made[0].id != known.id):
        forward.close(known)
        registry.discard(known)
    if made is None:
        return None
    info, texts = made
    if texts is None or (known is not None and known.id == info.id):
        return known
    return register(info, texts)


def _known(name: str) -> ClusterInfo | None:
    known = registry.get(name)
    return known if known is not None and known.kind == "kubernetes" else None


def _profile(name: str) -> KubernetesProfile:
    settings = profile(name)
    if not isinstance(settings, KubernetesProfile):
        raise ClusterNotFound(f"There is no profile {name!r} of kind kubernetes.", "See: %cloud profiles")
    return settings


async def _found(name: str, settings: KubernetesProfile) -> _Made | None:
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
    deadline = time.monotonic() + _COMPLETE
    while True:
        secret = await place.get("Secret", f"{cluster}-tls")
        data = (secret or {}).get("data") or {}
        if all(key in data for key in manifests.TLS_KEYS):
            ca, cert, key = (base64.b64decode(data[key]).decode() for key in manifests.TLS_KEYS)
            return ca, cert, key
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(POLL)


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
        directory=str(_directory(name, identity(cluster))),
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
            "settings": facts.get("settings", {}),
        },
    )


def identity(cluster: Manifest) -> str:
    """What tells a cluster from one of the same name before or after it."""
    return str(cluster["metadata"]["uid"]).replace("-", "")[:8]


def _directory(name: str, identity: str) -> Path:
    return registry.folder() / f"{name}-{identity}"


def register(info: ClusterInfo, texts: certificates.Texts) -> ClusterInfo:
    """Keep an entry and its certificates."""
    info = replace(info, tls=certificates.write(texts, private_dir(_directory(info.name, info.id))))
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

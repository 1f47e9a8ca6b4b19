"""A cluster is made: first the ``DaskCluster``, which is the claim to its name, then what belongs to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from nbcloud.clusters import certificates
from nbcloud.clusters.base import ClusterInfo, Progress
from nbcloud.clusters.kubernetes import manifests, thread
from nbcloud.clusters.kubernetes.api import ENDING, POLL, Api, Manifest, connect
from nbcloud.clusters.kubernetes.discovery import describe, find, register
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.clusters.kubernetes.refusals import Refused
from nbcloud.config.profiles import KubernetesProfile


def start(
    name: str, settings: KubernetesProfile, progress: Progress, made: list[ClusterInfo]
) -> tuple[ClusterInfo, bool]:
    """Make the cluster; returns it, and whether we made it, rather than somebody a moment sooner.

    ``made`` gets it as soon as all of it is there: an interrupt may come before this returns.
    """
    texts = certificates.make()
    try:
        info = thread.run(_create(name, settings, texts, progress, made))
    except Refused as error:
        found = find(name, settings) if error.code == 409 else None
        if found is None:
            raise
        return found, False
    return register(info, texts), True


async def _create(
    name: str,
    settings: KubernetesProfile,
    texts: certificates.Texts,
    progress: Progress,
    made: list[ClusterInfo],
) -> ClusterInfo:
    """Make everything: who makes the ``DaskCluster`` has the name, and all else belongs to it."""
    place = await connect(Where.of(settings))
    progress(f"asking Kubernetes for the cluster, in the namespace {place.namespace!r}")
    plan = manifests.plan(name, settings, place.namespace, texts)
    if not await _may_have(place, plan.account):
        plan = manifests.plan(name, settings, place.namespace, texts, account=False)
        progress(
            "you may not make roles there: workers stay at their minimum, and it does not end when idle "
            "(see: nbcloud kubernetes rbac)"
        )
    cluster = await _make_cluster(place, plan.cluster)
    try:
        owned = {"ownerReferences": [_reference(cluster)]}
        await asyncio.gather(*(place.make(_with(part, owned)) for part in plan.parts))
        await place.make(_with(plan.secret, owned))
    except BaseException:
        await asyncio.shield(place.delete("DaskCluster", plan.name))
        raise
    made.append(describe(name, settings, place, cluster))
    return made[0]


async def _may_have(place: Api, account: list[Manifest]) -> bool:
    """Whether we may make the steward's account and its role, with all that it may do."""
    try:
        for part in account:
            if part["kind"] != "RoleBinding":  # of a role that is not there yet
                await place.create(part, dry_run=True)
    except Refused as error:
        return error.code not in {401, 403}
    return True


def _with(part: Manifest, metadata: dict[str, Any]) -> Manifest:
    return {**part, "metadata": {**part["metadata"], **metadata}}


def _reference(cluster: Manifest) -> dict[str, Any]:
    return {
        "apiVersion": cluster["apiVersion"],
        "kind": cluster["kind"],
        "name": cluster["metadata"]["name"],
        "uid": cluster["metadata"]["uid"],
    }


async def _make_cluster(place: Api, manifest: Manifest) -> Manifest:
    """Make the ``DaskCluster``, once one of the same name that is ending has gone."""
    deadline = time.monotonic() + ENDING
    while True:
        try:
            return await place.create(manifest)
        except Refused as error:
            before = await place.get("DaskCluster", manifest["metadata"]["name"])
            ending = before is None or before["metadata"].get("deletionTimestamp")
            if error.code != 409 or not ending or time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL)

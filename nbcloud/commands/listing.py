"""``ls``: the clusters that are up."""

from __future__ import annotations

import argparse

from nbcloud.clusters import connect as clusters
from nbcloud.clusters import registry
from nbcloud.clusters.base import ClusterInfo, Progress
from nbcloud.clusters.kubernetes import backend as kubernetes
from nbcloud.commands.answers import Answer, ago, facts_of
from nbcloud.errors import NbcloudError


def list_clusters(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Clusters of this user, those included that only Kubernetes knows of, or could not be asked about."""
    failed = kubernetes.discover()
    rows, data = [], []
    infos = registry.entries()
    for info in infos:
        state = _state(info, failed)
        rows.append([info.name, info.kind, info.address, str(info.workers or ""), ago(info.created), state])
        data.append({**facts_of(info), "state": state})
    for name in [each for each in failed if each not in {info.name for info in infos}]:
        rows.append([name, "kubernetes", "", "", "", "?"])
        data.append({"name": name, "kind": "kubernetes", "state": "?"})
    for facts in data:
        if error := failed.get(str(facts["name"])):
            facts["trouble"] = str(error)
    text = "" if infos else "No cluster is up. Type: %cloud up"
    if failed:
        troubles = [f"Whether {name!r} is up is not known: {error}" for name, error in failed.items()]
        text = "\n".join(troubles)
    return Answer(text, ["name", "kind", "address", "workers", "started", "state"], rows, data)


def _state(info: ClusterInfo, failed: dict[str, NbcloudError]) -> str:
    if not info.ready:
        return "starting"
    if info.name in failed:
        return "out of reach"
    if info.kind == "kubernetes":  # whose end would have been seen
        return "up"
    try:
        return "up" if clusters.alive(info) else "gone"
    except NbcloudError:
        return "out of reach"

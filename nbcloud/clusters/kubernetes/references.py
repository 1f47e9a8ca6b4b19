"""What a profile takes for granted in Kubernetes: accounts, Secrets, volumes and nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from nbcloud.clusters.kubernetes import manifests
from nbcloud.clusters.kubernetes.api import Api, Manifest
from nbcloud.clusters.kubernetes.findings import Finding
from nbcloud.clusters.kubernetes.refusals import Refused
from nbcloud.config.profiles import KubernetesProfile
from nbcloud.errors import NbcloudError
from nbcloud.wording import counted

_UNITS = {
    **{
        unit: 1000.0**power
        for power, unit in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
    },
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)},
}


@dataclass
class _Reference:
    """An object that pods of the profile need, and the keys that it must have."""

    what: str
    kind: str
    name: str
    hint: str
    keys: set[str] = field(default_factory=set)


async def examine_references(place: Api, profile: str, settings: KubernetesProfile) -> AsyncIterator[Finding]:
    """One finding for each object that the profile names, and for each group whether a node can take it."""
    plan = manifests.plan(profile, settings, place.namespace, ("", "", ""))
    pods = {"default": plan.cluster["spec"]["worker"]["spec"]}
    pods |= {
        key: each["spec"]["worker"]["spec"] for key, each in zip(settings.groups, plan.groups, strict=True)
    }
    scheduler = plan.cluster["spec"]["scheduler"]["spec"]
    wanted = _references(settings, [scheduler, *pods.values()], place.namespace)
    for finding in await asyncio.gather(*(_look_at(place, each) for each in wanted)):
        yield finding
    try:
        nodes = await place.find("Node")
    except Refused:
        yield Finding(
            "nodes", "unknown", "you may not list nodes: whether one can take a worker is not known"
        )
        return
    for group, pod in pods.items():
        yield fits(group, pod, nodes)


def _references(settings: KubernetesProfile, pods: list[Manifest], namespace: str) -> list[_Reference]:
    found: dict[tuple[str, str, str], _Reference] = {}

    def add(what: str, kind: str, name: str, hint: str, *keys: str) -> None:
        each = found.setdefault((what, kind, name), _Reference(what, kind, name, hint))
        each.keys.update(keys)

    if settings.service_account:
        hint = "See: nbcloud kubernetes rbac"
        add("service account", "ServiceAccount", settings.service_account, hint)
    for name in settings.image_pull_secrets:
        hint = f"Type: kubectl create secret docker-registry {name} -n {namespace} …"
        add("image pull secret", "Secret", name, hint, ".dockerconfigjson")
    for pod in pods:
        for each in pod["containers"][0]["env"]:
            if reference := each.get("valueFrom", {}).get("secretKeyRef"):
                name, key = reference["name"], reference["key"]
                hint = f"Type: kubectl create secret generic {name} -n {namespace} --from-literal={key}=…"
                add("secret", "Secret", name, hint, key)
        for each in pod["volumes"]:
            if each["name"].startswith("nbcloud-"):
                continue
            for source, of, kind in _VOLUMES:
                if source in each:
                    hint = f"Make it in the namespace {namespace!r}, or take the volume out of the profile."
                    add("volume", kind, each[source][of], hint)
    return list(found.values())


_VOLUMES = (
    ("persistentVolumeClaim", "claimName", "PersistentVolumeClaim"),
    ("secret", "secretName", "Secret"),
    ("configMap", "name", "ConfigMap"),
)


async def _look_at(place: Api, wanted: _Reference) -> Finding:
    name = f"{wanted.kind} {wanted.name!r}"
    try:
        found = await place.get(wanted.kind, wanted.name)
    except NbcloudError as error:
        return Finding(wanted.what, "unknown", f"{name}: {error.message}", error.hint)
    if found is None:
        return Finding(wanted.what, "bad", f"there is no {name} in {place.namespace!r}", wanted.hint)
    lacking = sorted(wanted.keys - (found.get("data") or {}).keys())
    if lacking:
        return Finding(wanted.what, "bad", f"{name} has no key {', '.join(map(repr, lacking))}", wanted.hint)
    phase = (found.get("status") or {}).get("phase", "")
    if phase == "Lost":
        return Finding(wanted.what, "bad", f"{name} has lost its volume", "Make the claim anew.")
    return Finding(wanted.what, "ok", name)


def fits(group: str, pod: dict[str, Any], nodes: list[Manifest]) -> Finding:
    """Whether any node could take a worker, were it empty; what is taken now, the scheduler's word tells."""
    asked: dict[str, str] = pod["containers"][0]["resources"]["requests"]
    selector = pod.get("nodeSelector", {})
    open_to = [
        node
        for node in nodes
        if selector.items() <= (node["metadata"].get("labels") or {}).items() and _tolerates(pod, node)
    ]
    wanted = ", ".join(f"{amount} {name}" for name, amount in asked.items() if name not in {"cpu", "memory"})
    whose = f"a worker of the group {group!r}"
    if not open_to:
        text = f"none of {counted(len(nodes), 'node')} is open to {whose}"
        hint = "Look at node_selector and tolerations. See: kubectl get nodes --show-labels"
        return Finding("nodes", "warning", text, hint)
    fitting = [node for node in open_to if not _lacking(node, asked)]
    if fitting:
        text = f"{len(fitting)} of {counted(len(nodes), 'node')} can take {whose}"
        return Finding("nodes", "ok", f"{text} ({wanted})" if wanted else text)
    least = min((_lacking(node, asked) for node in open_to), key=len)
    text = f"no node has {' and '.join(f'{asked[name]} {name}' for name in least)} for {whose}"
    hint = "Ask for less in the profile, or add a node that has it; one that is added on demand may come."
    return Finding("nodes", "warning", text, hint)


def _lacking(node: Manifest, asked: dict[str, str]) -> list[str]:
    there = node.get("status", {}).get("allocatable") or {}
    return [name for name, amount in asked.items() if _amount(there.get(name, "0")) < _amount(amount)]


def _amount(text: str) -> float:
    """A quantity of Kubernetes' as a number."""
    unit = max((unit for unit in _UNITS if text.endswith(unit)), key=len)
    return float(text.removesuffix(unit)) * _UNITS[unit]


def _tolerates(pod: dict[str, Any], node: Manifest) -> bool:
    if node.get("spec", {}).get("unschedulable"):
        return False
    taints = [each for each in node["spec"].get("taints") or () if each["effect"] != "PreferNoSchedule"]
    return all(any(_puts_up(each, taint) for each in pod.get("tolerations") or ()) for taint in taints)


def _puts_up(toleration: dict[str, str], taint: dict[str, str]) -> bool:
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if toleration.get("key") not in {None, "", taint["key"]}:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")

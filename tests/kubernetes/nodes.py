"""Nodes and the scheduler: which pod fits where, and why not."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from tests.kubernetes import quantities
from tests.kubernetes.kubelet import set_condition
from tests.kubernetes.matching import expression_matches
from tests.kubernetes.store import Object, Store

GPU = "nvidia.com/gpu"
NO_VICTIMS = "No preemption victims found for incoming pod"
NO_HELP = "Preemption is not helpful for scheduling"


def node(
    name: str, cpu: str, memory: str, resources: dict[str, int], labels: dict[str, str], taints: list[Object]
) -> Object:
    amounts = {
        "cpu": cpu,
        "memory": memory,
        "pods": "110",
        **{key: str(value) for key, value in resources.items()},
    }
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels},
        },
        "spec": {"taints": taints} if taints else {},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": {"kubeletVersion": "v1.33.4", "operatingSystem": "linux", "architecture": "amd64"},
        },
    }


class Scheduler:
    """Binds pods to nodes."""

    watches = frozenset({"pods", "nodes"})

    def __init__(self, store: Store) -> None:
        self._store = store

    def sync(self) -> None:
        for pod in self._store.list("pods"):
            if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
                self._schedule(pod)

    def _schedule(self, pod: Object) -> None:
        nodes = self._store.list("nodes")
        reasons: Counter[str] = Counter()
        preemption: Counter[str] = Counter()
        fitting = []
        for each in nodes:
            hopeless, lacking = self._refusals(each, pod), []
            if not hopeless:
                lacking = self._lacking(each, pod)
            reasons.update(hopeless[:1] or lacking)
            preemption.update([NO_HELP] if hopeless else [NO_VICTIMS] if lacking else [])
            if not hopeless and not lacking:
                fitting.append(each)
        if fitting:
            self._bind(
                pod, min(fitting, key=lambda each: (len(self._pods_on(each)), each["metadata"]["name"]))
            )
            return
        message = "no nodes available to schedule pods"
        if nodes:
            none = f"0/{len(nodes)} nodes are available: "
            message = (
                none
                + ", ".join(sorted(f"{count} {why}" for why, count in reasons.items()))
                + ". preemption: "
            )
            message += none + ", ".join(sorted(f"{count} {why}" for why, count in preemption.items())) + "."
        known = next(
            (each for each in pod["status"].get("conditions", ()) if each["type"] == "PodScheduled"), {}
        )
        if known.get("message") != message:
            why = {"reason": "Unschedulable", "message": message}
            self._store.change(
                "pods", pod, lambda each: set_condition(each["status"], "PodScheduled", False, **why)
            )
            self._store.record_event(pod, "FailedScheduling", message, "default-scheduler", "Warning")

    def _pods_on(self, node: Object) -> list[Object]:
        return [
            each
            for each in self._store.list("pods")
            if each["spec"].get("nodeName") == node["metadata"]["name"]
            and each["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def _refusals(self, node: Object, pod: Object) -> list[str]:
        """Why a node is not for this pod, whatever room it has."""
        found, labels = [], node["metadata"].get("labels") or {}
        if node["spec"].get("unschedulable"):
            found.append("node(s) were unschedulable")
        for taint in node["spec"].get("taints") or ():
            tolerated = any(_tolerates(each, taint) for each in pod["spec"].get("tolerations") or ())
            if taint["effect"] != "PreferNoSchedule" and not tolerated:
                found.append(f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}")
        affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        ) or {}
        terms = affinity.get("nodeSelectorTerms") or []
        fits = not terms or any(
            all(expression_matches(each, labels) for each in term.get("matchExpressions") or ())
            for term in terms
        )
        if not fits or any(
            labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()
        ):
            found.append("node(s) didn't match Pod's node affinity/selector")
        return found

    def _lacking(self, node: Object, pod: Object) -> list[str]:
        free = {name: quantities.parse(amount) for name, amount in node["status"]["allocatable"].items()}
        others = self._pods_on(node)
        for other in others:
            for name, amount in quantities.of_pod(other["spec"]).items():
                free[name] = free.get(name, Fraction(0)) - amount
        lacking = ["Too many pods"] if len(others) >= free["pods"] else []
        asked = quantities.of_pod(pod["spec"])
        return lacking + [
            f"Insufficient {name}" for name, amount in asked.items() if amount and amount > free.get(name, 0)
        ]

    def _bind(self, pod: Object, node: Object) -> None:
        name = node["metadata"]["name"]
        wanted = int(quantities.of_pod(pod["spec"]).get(GPU, 0))
        taken = {
            number
            for each in self._pods_on(node)
            for number in (each["metadata"].get("annotations") or {}).get("double/gpus", "").split(",")
        }
        numbers = [
            str(each)
            for each in range(int(node["status"]["allocatable"].get(GPU, 0)))
            if str(each) not in taken
        ]

        def bind(each: Object) -> None:
            each["spec"]["nodeName"] = name
            set_condition(each["status"], "PodScheduled", True)
            if wanted:
                each["metadata"].setdefault("annotations", {})["double/gpus"] = ",".join(numbers[:wanted])

        bound = self._store.change("pods", pod, bind)
        where = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._store.record_event(
            bound, "Scheduled", f"Successfully assigned {where} to {name}", "default-scheduler"
        )


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))

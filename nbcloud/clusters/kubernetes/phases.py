"""How far a cluster has come, and what keeps it: read from what Kubernetes says of its parts."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from nbcloud.clusters.kubernetes import naming
from nbcloud.clusters.kubernetes.api import Api, Manifest
from nbcloud.clusters.kubernetes.refusals import INSTALL, Refused

_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_FAILED_MOUNT = "FailedMount"


@dataclass(frozen=True)
class Trouble:
    """Something that keeps a part of a cluster from coming up."""

    kind: Literal["image", "config", "crash", "volume", "node", "quota", "operator"]
    about: str
    """``scheduler``, or the name of a group."""
    text: str
    """What it is, as a sentence without its end."""
    hint: str = ""
    patience: float = math.inf
    """Seconds after which it is given up that it mends itself."""
    pod: str = ""
    """The pod whose log says more."""


@dataclass(frozen=True)
class Look:
    """One look at a cluster."""

    phase: str
    """What it waits for, in a few words."""
    troubles: list[Trouble]
    running: dict[str, int]
    """Pods that run, by group."""
    wanted: dict[str, int]
    """Pods that there should be, by group."""


async def look(place: Api, name: str) -> Look:
    """See how far the cluster of that name is."""
    labels = {naming.CLUSTER: name}
    cluster = await place.get("DaskCluster", name)
    if cluster is None:
        return Look("gone", [], {}, {})
    pods, deployments = await asyncio.gather(place.find("Pod", labels), place.find("Deployment", labels))
    events = await _events(place) if any(_is_pending(pod) for pod in pods) else {}
    troubles = [found for pod in pods if (found := of_pod(pod, events)) is not None]
    troubles += [found for each in deployments if (found := of_deployment(each)) is not None]
    if not deployments and not (cluster.get("status") or {}).get("phase"):
        troubles.append(_no_operator())
    troubles.sort(key=lambda trouble: trouble.about != "scheduler")
    running: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for each in deployments:
        about = _about(each)
        wanted[about] = wanted.get(about, 0) + 1
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Running" and not _waiting(pod):
            running[_about(pod)] = running.get(_about(pod), 0) + 1
    return Look(_phase(deployments, pods, running), troubles, running, wanted)


def _phase(deployments: list[Manifest], pods: list[Manifest], running: dict[str, int]) -> str:
    if not deployments:
        return "waiting for the operator"
    if not running.get("scheduler"):
        scheduler = next((pod for pod in pods if _about(pod) == "scheduler"), None)
        if scheduler is None:
            return "waiting for the scheduler's pod"
        return _pod_phase(scheduler, "the scheduler")
    workers = [pod for pod in pods if _about(pod) != "scheduler"]
    late = [pod for pod in workers if pod.get("status", {}).get("phase") != "Running"]
    if late:
        return _pod_phase(late[0], f"{len(late)} of {len(workers)} workers")
    return "connecting to the scheduler"


def _pod_phase(pod: Manifest, whose: str) -> str:
    status = pod.get("status", {})
    if not any(c["type"] == "PodScheduled" and c["status"] == "True" for c in status.get("conditions", [])):
        return f"finding a node for {whose}"
    reason = (_waiting(pod) or {}).get("reason", "")
    if reason in {"", "ContainerCreating", "PodInitializing"}:
        return f"pulling the image and starting {whose}"
    return f"starting {whose} ({reason})"


def _about(manifest: Manifest) -> str:
    labels = manifest["metadata"].get("labels", {})
    if labels.get(naming.COMPONENT) == "scheduler":
        return "scheduler"
    return str(labels.get(naming.GROUP, "")).removeprefix(f"{labels.get(naming.CLUSTER, '')}-")


def _waiting(pod: Manifest) -> dict[str, Any] | None:
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if "waiting" in status.get("state", {}):
            found: dict[str, Any] = status["state"]["waiting"] or {}
            return found
    return None


def _is_pending(pod: Manifest) -> bool:
    return bool(pod.get("status", {}).get("phase", "Pending") == "Pending")


async def _events(place: Api) -> dict[str, list[Manifest]]:
    """What a pod's own status does not tell, by the pod's name; of all else there may be very many."""
    found: dict[str, list[Manifest]] = {}
    try:
        events = await place.find("Event", fields={"involvedObject.kind": "Pod", "reason": _FAILED_MOUNT})
    except Refused:  # not everybody may read them
        return {}
    for event in events:
        found.setdefault(event["involvedObject"].get("name", ""), []).append(event)
    return found


# --- one part at a time ----------------------------------------------------------------------------------


def of_pod(pod: Manifest, events: dict[str, list[Manifest]], whose: str = "") -> Trouble | None:
    """What keeps a pod from running, None when nothing does.

    Parameters
    ----------
    pod : dict
    events : dict
        Those of pods that could not mount a volume, by the pods' names.
    whose : str
        What runs in it, in words; by default the part of a cluster that its labels name.
    """
    status, name, about = pod.get("status", {}), pod["metadata"]["name"], _about(pod)
    if pod["metadata"].get("deletionTimestamp"):
        return None
    whose = whose or _whose(about)
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _unschedulable(about, whose, condition.get("message", ""))
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _PULL:
            return Trouble(
                "image",
                about,
                f"the image of {whose} can't be pulled: {_image_of(pod)} ({message or reason})",
                "Is the profile's image right, and image_pull_secrets?",
                3 if reason in {"InvalidImageName", "ErrImageNeverPull"} else 8,
                name,
            )
        if reason in _CONFIG:
            return Trouble(
                "config", about, f"{whose} can't be started: {message or reason}", _config_hint(message), 5
            )
        ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get(
            "terminated"
        )
        if ended and "running" not in container.get("state", {}):
            return _crashed(about, whose, ended, container.get("restartCount", 0), name)
    if _is_pending(pod) and name in events:  # else it has its volumes by now
        text = f"{whose} lacks a volume: {events[name][-1].get('message', '')}"
        return Trouble("volume", about, text, _MOUNT, 10)
    return None


_MOUNT = "Do the secrets, claims and config maps of the profile's volumes exist in its namespace?"


def _whose(about: str) -> str:
    return "the scheduler" if about == "scheduler" else f"a worker of the group {about!r}"


def _image_of(pod: Manifest) -> str:
    return str(pod["spec"]["containers"][0].get("image", ""))


def _unschedulable(about: str, whose: str, message: str) -> Trouble:
    message = message.partition(" preemption:")[0].rstrip(". ")
    lacking = sorted(set(re.findall(r"Insufficient ([\w./-]+)", message)))
    hint = "A node that fits has to be added, or become free."
    if lacking:
        hint = f"Ask for less {' and '.join(lacking)} in the profile, or add a node that has it."
    elif "node affinity/selector" in message:
        hint = "Does a node have the labels of node_selector? See: kubectl get nodes --show-labels"
    elif "untolerated taint" in message:
        hint = "Add the taint to the profile's tolerations, or use other nodes."
    return Trouble("node", about, f"no node can take {whose}: {message}", hint)


def _config_hint(message: str) -> str:
    if "secret" in message:
        return "Make the Secret in the profile's namespace, or take it out of the profile."
    if "executable file not found" in message:
        return "The image must have Dask: does `dask --version` work in it?"
    return ""


def _crashed(about: str, whose: str, ended: dict[str, Any], restarts: int, pod: str) -> Trouble:
    reason, code = ended.get("reason", ""), ended.get("exitCode")
    if reason == "OOMKilled":
        text = f"{whose} ran out of memory and was killed"
        return Trouble("crash", about, text, "Give it more memory in the profile.", 5, pod)
    message = ended.get("message", "")
    if "executable file not found" in message:
        return Trouble("config", about, f"{whose} can't be started: {message}", _config_hint(message), 5)
    times = f", {restarts} times" if restarts > 1 else ""
    text = f"{whose} ends as soon as it starts (exit code {code}{times})"
    return Trouble("crash", about, text, "Its log says why.", 6, pod)


def of_deployment(deployment: Manifest) -> Trouble | None:
    """What keeps a Deployment from having its pod."""
    about = _about(deployment)
    for condition in deployment.get("status", {}).get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            message = condition.get("message", "")
            hint = "Lower the profile's resources or workers, or have the quota raised."
            if "quota" not in message:
                hint = "Ask whoever looks after this Kubernetes."
            text = f"Kubernetes makes no pod for {_whose(about)}: {message}"
            return Trouble("quota", about, text, hint, 5)
    return None


def _no_operator() -> Trouble:
    return Trouble(
        "operator",
        "scheduler",
        "the operator of dask-kubernetes does nothing about it: it does not run, or not for this namespace",
        f"See: nbcloud doctor. {INSTALL}",
        10,
    )

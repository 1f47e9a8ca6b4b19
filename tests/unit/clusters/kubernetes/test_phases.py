"""What Kubernetes says of a pod, as a sentence with the next thing to do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nbcloud.clusters.kubernetes.phases import of_deployment, of_pod


def pod(component: str = "worker", **status: Any) -> dict[str, Any]:
    labels = {
        "dask.org/cluster-name": "c",
        "dask.org/component": component,
        "dask.org/workergroup-name": "c-gpus",
    }
    return {
        "metadata": {"name": "p", "labels": labels},
        "spec": {"containers": [{"image": "team/image:1"}]},
        "status": status,
    }


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return pod(containerStatuses=[{"state": {"waiting": {"reason": reason, "message": message}}, **more}])


def unschedulable(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[condition])


NONE = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."


@pytest.mark.parametrize(
    ("given", "text", "hint"),
    [
        (
            unschedulable(f"0/2 nodes are available: 2 Insufficient nvidia.com/gpu. {NONE}"),
            "no node can take a worker of the group 'gpus': 0/2 nodes are available: 2 Insufficient nvidia.com/gpu",
            "Ask for less nvidia.com/gpu in the profile, or add a node that has it.",
        ),
        (
            unschedulable("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
            "node affinity/selector",
            "kubectl get nodes --show-labels",
        ),
        (
            unschedulable("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: true}."),
            "untolerated taint",
            "tolerations",
        ),
        (
            waiting("ImagePullBackOff", 'Back-off pulling image "team/image:1"'),
            "the image of a worker of the group 'gpus' can't be pulled: team/image:1",
            "image_pull_secrets",
        ),
        (
            waiting("CreateContainerConfigError", 'secret "hub" not found'),
            'secret "hub" not found',
            "Make the Secret",
        ),
        (
            waiting(
                "CrashLoopBackOff",
                lastState={"terminated": {"exitCode": 2, "reason": "Error"}},
                restartCount=3,
            ),
            "ends as soon as it starts (exit code 2, 3 times)",
            "log",
        ),
        (
            waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            "ran out of memory",
            "more memory",
        ),
    ],
)
def test_each_trouble(given: dict[str, Any], text: str, hint: str) -> None:
    found = of_pod(given, {})
    assert found is not None
    assert text in found.text
    assert "No preemption victims" not in found.text
    assert hint in found.hint
    assert found.about == "gpus"


def test_no_node_may_come_by_and_by_but_a_missing_image_will_not() -> None:
    node = of_pod(unschedulable("0/2 nodes are available: 2 Insufficient cpu."), {})
    image = of_pod(waiting("ErrImagePull"), {})
    assert node is not None
    assert image is not None
    assert node.patience == math.inf
    assert image.patience < 15


def test_a_volume_that_is_lacking_is_known_from_events() -> None:
    events = {"p": [{"reason": "FailedMount", "message": 'secret "s" not found'}]}
    found = of_pod(waiting("ContainerCreating"), events)
    assert found is not None
    assert 'lacks a volume: secret "s" not found' in found.text


def test_what_is_no_part_of_a_cluster_has_a_name_of_its_own() -> None:
    for given in (unschedulable("0/2 nodes are available: 2 Insufficient cpu."), waiting("ErrImagePull")):
        found = of_pod(given, {}, "the operator")
        assert found is not None
        assert "the operator" in found.text
        assert "worker" not in found.text


RESTARTED = {
    "state": {"running": {}},
    "restartCount": 1,
    "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
}


@pytest.mark.parametrize(
    "given",
    [
        pod(phase="Running"),
        waiting("ContainerCreating"),
        pod(phase="Pending"),
        pod(phase="Running", containerStatuses=[RESTARTED]),
    ],
)
def test_what_goes_well_is_no_trouble(given: dict[str, Any]) -> None:
    assert of_pod(given, {}) is None


def test_a_volume_that_came_late_is_no_trouble() -> None:
    events = {"p": [{"reason": "FailedMount", "message": 'secret "s" not found'}]}
    assert of_pod(pod(phase="Running", containerStatuses=[RESTARTED]), events) is None


def test_a_pod_that_ends_is_no_trouble() -> None:
    ending = waiting("ImagePullBackOff")
    ending["metadata"]["deletionTimestamp"] = "now"
    assert of_pod(ending, {}) is None


def test_a_quota() -> None:
    message = 'pods "x" is forbidden: exceeded quota: q, requested: requests.nvidia.com/gpu=1'
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    found = of_deployment({**pod(), "status": {"conditions": [condition]}})
    assert found is not None
    assert "exceeded quota: q" in found.text
    assert "quota raised" in found.hint

"""Pods of the double that run, and those that cannot, say why as on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kr8s.objects import Deployment, Pod, Secret

from tests.integration.kubernetes.looking import condition, only_pod, waiting
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.images import bare_image

Wait = Callable[..., Any]


def deployment(kubernetes: TestNamespace, name: str, container: dict[str, Any], **pod: Any) -> Deployment:
    labels = {"app": name}
    container = {"name": "main", "image": kubernetes.image, **container}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], **pod}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    made = Deployment({"metadata": {"name": name, "namespace": kubernetes.namespace}, "spec": spec})
    made.create()
    return made


@pytest.mark.double_only
@pytest.mark.parametrize(
    ("container", "reason", "message"),
    [
        ({"image": "x", "args": ["sleep", "9"]}, "ImagePullBackOff", 'Back-off pulling image "x"'),
        (
            {
                "args": ["true"],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}],
            },
            "CreateContainerConfigError",
            'secret "x" not found',
        ),
        (
            {"args": ["sh", "-c", "exit 3"]},
            "CrashLoopBackOff",
            "back-off 10s restarting failed container=main pod=one-",
        ),
    ],
)
def test_a_pod_that_cannot_run_says_why(
    kubernetes: TestNamespace, wait_until: Wait, container: dict[str, Any], reason: str, message: str
) -> None:
    deployment(kubernetes, "one", container)
    wait_until(lambda: waiting(only_pod(kubernetes, "app=one")).get("reason") == reason, what=reason)
    wait_until(lambda: message in waiting(only_pod(kubernetes, "app=one")).get("message", ""), what=message)


@pytest.mark.double_only
def test_a_command_that_is_not_in_the_image(
    kubernetes: TestNamespace, wait_until: Wait, tmp_path: Path
) -> None:
    kubernetes.double.images["bare"] = bare_image(tmp_path / "bare")
    script = "import importlib.util as u, distributed; print(u.find_spec('nbcloud'), distributed.__name__, flush=True)"
    deployment(kubernetes, "good", {"image": "bare", "command": ["python", "-c", script]})
    pod = wait_until(lambda: only_pod(kubernetes, "app=good"))
    logs = lambda: list(Pod.get(pod["metadata"]["name"], namespace=kubernetes.namespace).logs(previous=True))  # noqa: E731

    def restarted() -> int:
        statuses = only_pod(kubernetes, "app=good")["status"].get("containerStatuses")
        return statuses[0]["restartCount"] if statuses else 0

    wait_until(restarted, what="its second start")
    assert logs() == ["None distributed"]
    deployment(kubernetes, "bad", {"image": "bare", "args": ["dask-worker"]})

    def reason() -> str:
        (status,) = only_pod(kubernetes, "app=bad")["status"]["containerStatuses"]
        ended = status["lastState"].get("terminated", {})
        return f"{ended.get('reason')} {ended.get('message')}"

    wait_until(lambda: only_pod(kubernetes, "app=bad").get("status", {}).get("containerStatuses"))
    wait_until(lambda: reason().startswith("StartError"))
    assert reason().endswith('exec: "dask-worker": executable file not found in $PATH')


@pytest.mark.double_only
def test_files_of_secrets_and_the_service_account(kubernetes: TestNamespace, wait_until: Wait) -> None:
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        'cat /etc/tls/key $MODE; curl -s --cacert $ACCOUNT/ca.crt -H "Authorization: Bearer $(cat $ACCOUNT/token)" '
        f"https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/{kubernetes.namespace}/pods; sleep 60"
    )
    deployment(
        kubernetes,
        "files",
        {
            "command": ["sh", "-c", script],
            "env": [{"name": "ACCOUNT", "value": token}, {"name": "MODE", "value": "/etc/tls/mode"}],
            "volumeMounts": [{"name": "tls", "mountPath": "/etc/tls"}],
        },
        volumes=[{"name": "tls", "secret": {"secretName": "tls", "defaultMode": 0o400}}],
    )
    message = 'MountVolume.SetUp failed for volume "tls" : secret "tls" not found'
    wait_until(
        lambda: any(
            each["message"] == message
            for each in kubernetes.double.events(kubernetes.namespace, "FailedMount")
        )
    )
    assert waiting(only_pod(kubernetes, "app=files"))["reason"] == "ContainerCreating"
    Secret(
        {
            "metadata": {"name": "tls", "namespace": kubernetes.namespace},
            "stringData": {"key": "k-", "mode": "m-"},
        }
    ).create()
    wait_until(lambda: condition(only_pod(kubernetes, "app=files"), "Ready").get("status") == "True")
    pod = Pod.get(only_pod(kubernetes, "app=files")["metadata"]["name"], namespace=kubernetes.namespace)
    user = f"system:serviceaccount:{kubernetes.namespace}:default"
    text = wait_until(lambda: "\n".join(pod.logs()), what="a log")
    text = wait_until(lambda: (found := "\n".join(pod.logs())).rstrip().endswith("}") and found)
    assert text.startswith("k-m-{")
    assert f'pods is forbidden: User \\"{user}\\" cannot list resource \\"pods\\"' in text


@pytest.mark.double_only
def test_a_quota_stops_a_pod(kubernetes: TestNamespace, wait_until: Wait) -> None:
    hard = {"requests.nvidia.com/gpu": "0", "pods": "5"}
    kubernetes.double.create(
        "resourcequotas",
        {"metadata": {"name": "q", "namespace": kubernetes.namespace}, "spec": {"hard": hard}},
    )
    deployment(kubernetes, "big", {"args": ["sleep", "60"], "resources": {"limits": {"nvidia.com/gpu": "1"}}})

    def failure() -> dict[str, Any]:
        (found,) = kubernetes.double.objects("deployments.apps", kubernetes.namespace)
        return condition(found, "ReplicaFailure")

    why = wait_until(failure, what="ReplicaFailure")
    assert (why["status"], why["reason"]) == ("True", "FailedCreate")
    assert why["message"].endswith(
        "is forbidden: exceeded quota: q, requested: requests.nvidia.com/gpu=1, "
        "used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"
    )
    (event,) = kubernetes.double.events(kubernetes.namespace, "FailedCreate")
    assert event["involvedObject"]["kind"] == "ReplicaSet"
    assert event["message"] == f"Error creating: {why['message']}"

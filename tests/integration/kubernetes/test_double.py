"""The double holds what a cluster promises: the real operator, KubeCluster, schedulers and workers run on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import kr8s
import pytest
from dask_kubernetes.operator import KubeCluster
from distributed import Client
from kr8s.objects import Deployment, Pod, Secret

from tests.integration.kubernetes.dask_specs import NAME, cluster_spec, slow, worker_spec
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.double import KubernetesDouble
from tests.kubernetes.images import bare_image

Wait = Callable[..., Any]
WORKERS = f"dask.org/cluster-name={NAME},dask.org/component=worker"
SCHEDULER = f"dask.org/cluster-name={NAME},dask.org/component=scheduler"


@pytest.fixture
def cluster(kubernetes: TestNamespace) -> Iterator[KubeCluster]:
    with made(kubernetes, cluster_spec(kubernetes.image)) as cluster:
        yield cluster


def made(kubernetes: TestNamespace, spec: dict[str, Any]) -> KubeCluster:
    options = {
        "namespace": kubernetes.namespace,
        "port_forward_cluster_ip": True,
        "quiet": True,
        "resource_timeout": 30,
    }
    return KubeCluster(custom_cluster_spec=spec, **options)


def deployment(kubernetes: TestNamespace, name: str, container: dict[str, Any], **pod: Any) -> Deployment:
    labels = {"app": name}
    container = {"name": "main", "image": kubernetes.image, **container}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], **pod}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    made = Deployment({"metadata": {"name": name, "namespace": kubernetes.namespace}, "spec": spec})
    made.create()
    return made


def only_pod(kubernetes: TestNamespace, labels: str) -> dict[str, Any]:
    pods = kubernetes.double.pods(kubernetes.namespace, labels)
    return pods[0] if len(pods) == 1 else {}


def waiting(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or [{"state": {}}]
    return statuses[0]["state"].get("waiting") or {}


def condition(obj: dict[str, Any], type_: str) -> dict[str, Any]:
    found = [each for each in obj.get("status", {}).get("conditions", ()) if each["type"] == type_]
    return found[0] if found else {}


def test_a_dask_cluster_computes_and_scales(
    kubernetes: TestNamespace, cluster: KubeCluster, wait_until: Wait
) -> None:
    with Client(cluster) as client:
        assert client.submit(slow, 3).result(timeout=30) == 3
        for count in (2, 1):
            cluster.scale(count)
            wait_until(
                lambda count=count: len(client.scheduler_info()["workers"]) == count, what=f"{count} workers"
            )
        cluster.add_worker_group("more", custom_spec=worker_spec(kubernetes.image, 1))
        client.wait_for_workers(2, timeout=20)
        cluster.delete_worker_group("more")
        wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)


def test_a_dask_cluster_adapts(cluster: KubeCluster, wait_until: Wait) -> None:
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout=20)
        cluster.adapt(minimum=1, maximum=2)
        futures = client.map(slow, range(120))
        wait_until(lambda: len(client.scheduler_info()["workers"]) == 2, limit=40, what="two workers")
        client.cancel(futures)


@pytest.mark.double_only
def test_a_closed_cluster_leaves_nothing(kubernetes: TestNamespace, wait_until: Wait) -> None:
    with made(kubernetes, cluster_spec(kubernetes.image)):
        wait_until(lambda: kubernetes.double.processes(kubernetes.namespace))
    wait_until(lambda: not kubernetes.double.processes(kubernetes.namespace), what="the end of all processes")
    for kind in (
        "pods",
        "services",
        "deployments.apps",
        "replicasets.apps",
        "daskworkergroups.kubernetes.dask.org",
    ):
        wait_until(
            lambda kind=kind: not kubernetes.double.objects(kind, kubernetes.namespace), what=f"no {kind}"
        )


@pytest.mark.double_only
def test_two_workers_and_one_gpu(kubernetes: TestNamespace, wait_until: Wait) -> None:
    double = kubernetes.double
    double.add_node("gpu", resources={"nvidia.com/gpu": 1})
    try:
        limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
        with (
            made(kubernetes, cluster_spec(kubernetes.image, 2, **limits)) as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(1, timeout=20)
            devices = client.run(lambda: __import__("os").environ["CUDA_VISIBLE_DEVICES"])
            assert list(devices.values()) == ["0"]
            pods = double.pods(kubernetes.namespace, WORKERS)
            (pending,) = [each for each in pods if not each["spec"].get("nodeName")]
            assert pending["status"]["phase"] == "Pending"
            why = condition(pending, "PodScheduled")
            assert (why["status"], why["reason"]) == ("False", "Unschedulable")
            assert why["message"] == (
                "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. "
                "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
            )
            (event,) = double.events(kubernetes.namespace, "FailedScheduling")
            assert event["message"] == why["message"]
    finally:
        double.remove_node("gpu")


@pytest.mark.double_only
def test_a_killed_worker_is_started_again(
    kubernetes: TestNamespace, cluster: KubeCluster, wait_until: Wait
) -> None:
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout=20)
        pod = only_pod(kubernetes, WORKERS)
        kubernetes.double.kill_pod(kubernetes.namespace, pod["metadata"]["name"])

        def restarted() -> bool:
            (status,) = only_pod(kubernetes, WORKERS)["status"]["containerStatuses"]
            ended = status["lastState"].get("terminated", {})
            return (status["restartCount"], ended.get("reason"), ended.get("exitCode")) == (
                1,
                "OOMKilled",
                137,
            )

        wait_until(restarted, what="a restart")
        assert client.submit(slow, 4).result(timeout=30) == 4


@pytest.mark.double_only
def test_a_deleted_pod_is_replaced_and_its_forwards_break(
    kubernetes: TestNamespace, cluster: KubeCluster, wait_until: Wait
) -> None:
    before = only_pod(kubernetes, SCHEDULER)["metadata"]["name"]
    with Pod.get(before, namespace=kubernetes.namespace).portforward(8787, "auto") as port:
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200)
        Pod.get(before, namespace=kubernetes.namespace).delete()
        wait_until(
            lambda: only_pod(kubernetes, SCHEDULER).get("metadata", {}).get("name") not in (None, before)
        )
        wait_until(lambda: condition(only_pod(kubernetes, SCHEDULER), "Ready").get("status") == "True")


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
    wait_until(lambda: only_pod(kubernetes, "app=good")["status"]["containerStatuses"][0]["restartCount"])
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
def test_the_operator_goes_on_after_a_restart_of_the_api_server(
    kubernetes: TestNamespace, cluster: KubeCluster, wait_until: Wait
) -> None:
    double = kubernetes.double
    double.restart_api_server()
    wait_until(kubernetes.operator.watching)
    double.expire_watches()
    with Client(cluster) as client:
        cluster.scale(2)
        client.wait_for_workers(2, timeout=30)


@pytest.mark.double_only
def test_who_may_not_is_told_so(kubernetes: TestNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"], "namespaces": [kubernetes.namespace]}
    ]
    config = kubernetes.double.add_user("dev", rules, kubernetes.namespace)
    api = kr8s.api(kubeconfig=str(config))
    assert list(api.get("pods", namespace=kubernetes.namespace)) == []
    with pytest.raises(kr8s.ServerError) as refused:
        Secret({"metadata": {"name": "s", "namespace": kubernetes.namespace}}, api=api).create()
    assert str(refused.value) == (
        f'secrets is forbidden: User "dev" cannot create resource "secrets" in API group "" in the namespace "{kubernetes.namespace}"'
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(kr8s.ServerError) as refused:
        made(kubernetes, cluster_spec(kubernetes.image))
    assert str(refused.value).startswith("daskclusters.kubernetes.dask.org")
    assert 'User "dev" cannot' in str(refused.value)


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


@pytest.mark.double_only
def test_without_the_custom_resources(kubernetes: TestNamespace) -> None:
    with KubernetesDouble() as other:
        api = kr8s.api(kubeconfig=str(other.add_user("admin")))
        with pytest.raises(ValueError, match="Kind daskclusters not found"):
            list(api.get("daskclusters.kubernetes.dask.org"))
        with pytest.raises(kr8s.ServerError, match='namespaces "none" not found'):
            Secret({"metadata": {"name": "s", "namespace": "none"}}, api=api).create()

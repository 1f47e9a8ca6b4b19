"""The double holds what a cluster promises: the real operator, KubeCluster, schedulers and workers run on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import kr8s
import pytest
from dask_kubernetes.operator import KubeCluster
from distributed import Client
from kr8s.objects import Pod, Secret

from tests.integration.kubernetes.dask_specs import NAME, cluster_spec, slow, worker_spec
from tests.integration.kubernetes.looking import condition, only_pod
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.double import KubernetesDouble

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
        client.wait_for_workers(2, timeout=60)
        cluster.delete_worker_group("more")
        wait_until(lambda: len(client.scheduler_info()["workers"]) == 1)


def test_a_dask_cluster_adapts(cluster: KubeCluster, wait_until: Wait) -> None:
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout=60)
        cluster.adapt(minimum=1, maximum=2)
        futures = client.map(slow, range(120))
        wait_until(lambda: len(client.scheduler_info()["workers"]) == 2, limit=90, what="two workers")
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
            client.wait_for_workers(1, timeout=60)
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
        client.wait_for_workers(1, timeout=60)
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
def test_without_the_custom_resources(kubernetes: TestNamespace) -> None:
    with KubernetesDouble() as other:
        api = kr8s.api(kubeconfig=str(other.add_user("admin")))
        with pytest.raises(ValueError, match="Kind daskclusters not found"):
            list(api.get("daskclusters.kubernetes.dask.org"))
        with pytest.raises(kr8s.ServerError, match='namespaces "none" not found'):
            Secret({"metadata": {"name": "s", "namespace": "none"}}, api=api).create()

"""What runs in a cluster's pods, without the faults of the operator's templates."""

from __future__ import annotations

from typing import Any

from nbcloud.clusters.kubernetes import manifests
from nbcloud.config.profiles import KubernetesProfile, SchedulerPod, Toleration, Volume, WorkerGroup

TEXTS = ("CA", "CERT", "KEY")
FULL = KubernetesProfile(
    image="team/image:1",
    image_pull_secrets=("registry",),
    env={"A": "1", "PYTHONPATH": "/mine"},
    secrets={"TOKEN": "hub/token"},
    volumes=(Volume("/data", claim="datasets", read_only=True),),
    node_selector={"zone": "a"},
    tolerations=(Toleration("spot", "Exists"),),
    scheduler=SchedulerPod(cpus=0.5, memory=2**30),
    workers=WorkerGroup(
        gpus=2,
        gpu_resource="amd.com/gpu",
        minimum=0,
        maximum=4,
        memory=2**35,
        env={"A": "2"},
        volumes=(Volume("/dev/shm", memory=2**30),),
    ),
    groups={"cpu": WorkerGroup(cpus=8, image="team/other:1", node_selector={"kind": "big"})},
)


def pods(settings: KubernetesProfile = FULL) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Specs of the scheduler, of a worker of the first group and of one of the second."""
    plan = manifests.plan("gpu", settings, "ml", TEXTS)
    spec = plan.cluster["spec"]
    return spec["scheduler"]["spec"], spec["worker"]["spec"], plan.groups[0]["spec"]["worker"]["spec"]


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod["containers"][0]["env"]}


def test_the_scheduler_has_resources_of_its_own_and_no_gpu() -> None:
    scheduler, worker, _ = pods()
    assert scheduler["containers"][0]["resources"]["limits"] == {"cpu": "0.5", "memory": str(2**30)}
    limits = worker["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "2", "memory": str(2**35), "amd.com/gpu": "2"}


def test_commands_are_those_of_any_dask_release() -> None:
    scheduler, worker, _ = pods()
    assert scheduler["containers"][0]["args"][:2] == ["dask", "scheduler"]
    arguments = worker["containers"][0]["args"]
    assert arguments[:2] == ["dask", "worker"]
    assert f"CPU=2 MEMORY={2**35} GPU=2" in arguments


def test_only_tls_is_spoken_and_nothing_probes_by_http() -> None:
    for pod in pods():
        assert variables(pod)["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
        assert not {"readinessProbe", "livenessProbe"} & pod["containers"][0].keys()
        assert "tls" in pod["containers"][0]["args"]
    plan = manifests.plan("gpu", FULL, "ml", TEXTS)
    assert [port["name"] for port in plan.cluster["spec"]["scheduler"]["service"]["ports"]] == ["tcp-comm"]
    assert plan.cluster["spec"]["scheduler"]["service"]["type"] == "ClusterIP"
    assert plan.cluster["spec"]["idleTimeout"] == 0


def test_what_is_said_of_all_pods_is_so_of_all_and_a_group_goes_before() -> None:
    scheduler, worker, other = pods()
    for pod in (scheduler, worker, other):
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert {"key": "spot", "operator": "Exists"} in pod["tolerations"]
        assert {"name": "volume-0", "mountPath": "/data", "readOnly": True} in pod["containers"][0][
            "volumeMounts"
        ]
        assert variables(pod)["PYTHONPATH"].endswith("nbcloud.zip:/mine")
    assert variables(scheduler)["A"] == "1"
    assert variables(worker)["A"] == "2"
    assert variables(worker)["TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert other["nodeSelector"] == {"zone": "a", "kind": "big"}
    assert [pod["containers"][0]["image"] for pod in (scheduler, worker, other)] == [
        "team/image:1",
        "team/image:1",
        "team/other:1",
    ]


def test_only_the_scheduler_with_its_steward_has_an_account() -> None:
    scheduler, worker, _ = pods()
    assert scheduler["serviceAccountName"].endswith("-steward")
    assert "serviceAccountName" not in worker
    assert all(pod["automountServiceAccountToken"] is False for pod in pods())

"""A Kubernetes cluster for tests: the double, or the one that ``NBCLOUD_TEST_KUBECONFIG`` names."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kr8s
import pytest
import yaml

from tests.kubernetes.dask_operator import DaskOperator
from tests.kubernetes.double import KubernetesDouble
from tests.kubernetes.images import DEFAULT_IMAGE

REAL = "NBCLOUD_TEST_KUBECONFIG"
REAL_IMAGE = "NBCLOUD_TEST_IMAGE"


@dataclass(frozen=True)
class RunningDouble:
    """The double with its operator."""

    cluster: KubernetesDouble
    operator: DaskOperator


@dataclass(frozen=True)
class TestNamespace:
    """A namespace for one test; ``KUBECONFIG`` names it."""

    __test__ = False

    namespace: str
    kubeconfig: Path
    image: str
    running: RunningDouble | None
    """None on a real cluster."""

    @property
    def double(self) -> KubernetesDouble:
        assert self.running, "this test must be marked double_only"
        return self.running.cluster

    @property
    def operator(self) -> DaskOperator:
        assert self.running, "this test must be marked double_only"
        return self.running.operator


@pytest.fixture(autouse=True)
def _only_on_a_double(request: pytest.FixtureRequest) -> None:
    if os.environ.get(REAL) and request.node.get_closest_marker("double_only"):
        pytest.skip("needs the faults of the double")


@pytest.fixture(scope="session")
def kubernetes_double() -> Iterator[RunningDouble]:
    """A double with the custom resources of dask-kubernetes and its operator."""
    with KubernetesDouble() as double:
        double.install_crds()
        with DaskOperator(double) as operator:
            yield RunningDouble(double, operator)
        root, failures = double.root, double.failures
    assert failures == []
    assert not root.exists()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clients of kr8s are never closed, neither here nor by KubeCluster."""
    for each in items:
        if "kubernetes" in getattr(each, "fixturenames", ()):
            each.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


def forget_clients() -> None:
    """Let kr8s make new clients: those that it has do not notice that KUBECONFIG has changed."""
    kr8s.Api._instances.clear()
    gc.collect()


@pytest.fixture
def fresh_clients() -> Iterator[None]:
    forget_clients()
    yield
    forget_clients()


@pytest.fixture
def kubernetes(
    request: pytest.FixtureRequest, fresh_clients: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestNamespace]:
    """A fresh namespace, and KUBECONFIG for it; nothing of it is left at the end."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    if real := os.environ.get(REAL):
        kubeconfig = _with_namespace(Path(real), namespace, tmp_path / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        created = kr8s.objects.Namespace({"metadata": {"name": namespace}})
        created.create()
        yield TestNamespace(
            namespace, kubeconfig, os.environ.get(REAL_IMAGE, "ghcr.io/dask/dask:latest"), None
        )
        created.delete()
        return
    running: RunningDouble = request.getfixturevalue("kubernetes_double")
    running.cluster.create("namespaces", {"metadata": {"name": namespace}})
    kubeconfig = running.cluster.add_user("admin", namespace=namespace)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    yield TestNamespace(namespace, kubeconfig, DEFAULT_IMAGE, running)
    running.cluster.remove_namespace(namespace)
    assert running.cluster.failures == []


def _with_namespace(kubeconfig: Path, namespace: str, copy: Path) -> Path:
    content = yaml.safe_load(kubeconfig.read_text())
    for each in content["contexts"]:
        if each["name"] == content["current-context"]:
            each["context"]["namespace"] = namespace
    copy.touch(0o600)
    copy.write_text(yaml.safe_dump(content))
    return copy

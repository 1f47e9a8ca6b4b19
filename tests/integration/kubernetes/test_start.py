"""A start tells its phases; what keeps it is named within seconds, with the next thing to type."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbcloud import cli
from nbcloud.clusters import connect, registry
from nbcloud.errors import ClusterNotFound, ClusterStartError, ConfigError, NbcloudError
from tests.integration.kubernetes.profiles import failure, write
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.images import bare_image

Wait = Callable[..., Any]

WITHIN = 15.0


def refused(**options: Any) -> NbcloudError:
    """The error of a start that can't come up; it comes in time."""
    began = time.monotonic()
    error = failure(lambda: connect.up("gpu", **options))
    assert time.monotonic() - began < WITHIN
    return error


def left(kubernetes: TestNamespace) -> list[str]:
    """What there is of clusters in the namespace."""
    kinds = (
        "daskclusters.kubernetes.dask.org",
        "secrets",
        "configmaps",
        "deployments.apps",
        "roles.rbac.authorization.k8s.io",
    )
    found = [each for kind in kinds for each in kubernetes.double.objects(kind, kubernetes.namespace)]
    return [each["metadata"]["name"] for each in found if each["metadata"]["name"] != "kube-root-ca.crt"]


def test_phases_come_in_order(project: Path, kubernetes: TestNamespace) -> None:
    phases: list[str] = []
    info = connect.up("gpu", progress=phases.append)
    assert phases[0] == f"asking Kubernetes for the cluster, in the namespace {kubernetes.namespace!r}"
    assert any("joined" in phase or "connecting" in phase for phase in phases)
    assert info.ready
    assert len(connect.status(info)["workers"]) == 1


@pytest.mark.double_only
def test_an_image_that_is_not_there(project: Path, kubernetes: TestNamespace, wait_until: Wait) -> None:
    write(project, kubernetes, image="registry.example/none:1")
    error = refused()
    assert isinstance(error, ClusterStartError)
    assert "the image of the scheduler can't be pulled: registry.example/none:1" in error.message
    assert "image_pull_secrets" in error.hint
    assert registry.entries() == []
    wait_until(lambda: left(kubernetes) == [], what="nothing left of it")


@pytest.mark.double_only
def test_a_scheduler_that_ends_at_once_shows_its_log(project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, top='env = { DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION = "9" }')
    error = refused()
    assert "ends as soon as it starts" in error.message
    assert "its log ends with" in error.message
    assert "9" in error.message


@pytest.mark.double_only
def test_a_secret_that_is_not_there(project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, top='secrets = { TOKEN = "nosuch/token" }')
    error = refused()
    assert 'secret "nosuch" not found' in error.message
    assert "Make the Secret" in error.hint


@pytest.mark.double_only
def test_a_volume_that_is_not_there(project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, top='volumes = [{ path = "/data", secret = "nosuch" }]')
    error = refused()
    assert "lacks a volume" in error.message
    assert '"nosuch" not found' in error.message


@pytest.mark.double_only
def test_a_quota_that_is_used_up(project: Path, kubernetes: TestNamespace) -> None:
    hard = {"requests.nvidia.com/gpu": "0"}
    quota = {"metadata": {"name": "q", "namespace": kubernetes.namespace}, "spec": {"hard": hard}}
    kubernetes.double.create("resourcequotas", quota)
    write(project, kubernetes, workers="gpus = 1")
    error = refused()
    assert "exceeded quota: q" in error.message
    assert "quota raised" in error.hint


@pytest.mark.double_only
def test_no_node_is_told_at_once_and_waited_for(
    project: Path, kubernetes: TestNamespace, wait_until: Wait
) -> None:
    write(project, kubernetes, workers='gpus = 1\ngpu_resource = "example.com/fpga"')
    phases: list[str] = []
    began = time.monotonic()
    told: list[float] = []

    def progress(text: str) -> None:
        phases.append(text)
        if "no node can take" in text and not told:
            told.append(time.monotonic() - began)
            kubernetes.double.add_node("node-fpga", resources={"example.com/fpga": 1})

    try:
        info = connect.up("gpu", progress=progress)
    finally:
        kubernetes.double.remove_node("node-fpga") if told else None
    assert told[0] < WITHIN
    assert any("Insufficient example.com/fpga" in phase for phase in phases)
    assert info.ready


@pytest.mark.double_only
def test_no_node_in_time(project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, top='node_selector = { zone = "moon" }')
    text = (project / "nbcloud.toml").read_text().replace('start_timeout = "60s"', 'start_timeout = "5s"')
    (project / "nbcloud.toml").write_text(text)
    error = refused()
    assert "did not come up within 5 s" in error.message
    assert "no node can take the scheduler" in error.message
    assert "node_selector" in error.hint


@pytest.mark.double_only
def test_no_permission(project: Path, kubernetes: TestNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    may_look = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
    kubeconfig = kubernetes.double.add_user("guest", may_look, namespace=kubernetes.namespace)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    error = refused()
    assert 'User "guest" cannot create resource' in error.message
    assert left(kubernetes) == []


@pytest.mark.double_only
def test_without_roles_it_comes_up_and_says_what_it_lacks(
    project: Path, kubernetes: TestNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = ["", "apps", "kubernetes.dask.org"]
    rules = [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}]
    kubeconfig = kubernetes.double.add_user("dev", rules, namespace=kubernetes.namespace)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    phases: list[str] = []
    info = connect.up("gpu", progress=phases.append)
    assert any("you may not make roles there" in phase for phase in phases)
    assert len(connect.status(info)["workers"]) == 1


@pytest.mark.double_only
def test_a_namespace_that_is_not_there(project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, top='namespace = "nosuch"')
    error = refused()
    assert isinstance(error, ClusterNotFound)
    assert error.hint == "Type: kubectl create namespace nosuch"


@pytest.mark.double_only
def test_an_api_server_that_is_not_there(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubernetes: TestNamespace
) -> None:
    text = kubernetes.kubeconfig.read_text()
    server = next(line for line in text.splitlines() if "server:" in line)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(text.replace(server, f"{server.partition('server:')[0]}server: https://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(elsewhere))
    assert f"that {elsewhere} names can't be reached" in refused().message


def test_no_kubeconfig(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nosuch"))
    error = refused()
    assert isinstance(error, ConfigError)
    assert "no kubeconfig" in error.message


def test_no_such_context(project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, top='context = "nosuch"')
    error = refused()
    assert "has no context 'nosuch'" in error.message
    assert "kubectl config get-contexts" in error.hint


@pytest.mark.double_only
def test_no_operator(project: Path, kubernetes: TestNamespace) -> None:
    kubernetes.operator.stop()
    try:
        error = refused()
    finally:
        kubernetes.operator.start()
    assert "the operator of dask-kubernetes does nothing about it" in error.message
    assert "nbcloud kubernetes install" in error.hint
    assert left(kubernetes) == []


@pytest.mark.double_only
def test_no_custom_resources(project: Path, kubernetes: TestNamespace) -> None:
    kubernetes.operator.stop()
    kubernetes.double.remove_crds()
    try:
        error = refused()
    finally:
        kubernetes.double.install_crds()
        kubernetes.operator.start()
    assert "the operator of dask-kubernetes is not installed there" in error.message
    assert error.hint == "Type: nbcloud kubernetes install"


@pytest.mark.double_only
def test_packages_that_an_image_lacks_are_named(
    project: Path, kubernetes: TestNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = bare_image(tmp_path / "image")
    for path in (
        *image.glob("lib/python*/site-packages/xxhash*"),
        *image.glob("lib/python*/site-packages/ipykernel*"),
    ):
        path.unlink()
    kubernetes.double.images["with-dask"] = image
    write(project, kubernetes, image="with-dask")
    assert cli.main(["up", "gpu"]) == 1
    said = capsys.readouterr().err
    assert "The scheduler of 'gpu' lacks ipykernel, xxhash" in said
    assert 'EXTRA_PIP_PACKAGES = "ipykernel xxhash"' in said

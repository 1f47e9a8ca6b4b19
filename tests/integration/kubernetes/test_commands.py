"""The commands about Kubernetes: doctor, the operator, sync, cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nbcloud import cli
from nbcloud.clusters import connect
from nbcloud.clusters.kubernetes import operator
from tests.integration.kubernetes.profiles import write
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.double import KubernetesDouble
from tests.kubernetes.images import bare_image

Wait = Callable[..., Any]


def findings(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """What the doctor says, by what it is about."""
    code = cli.main(["doctor", *words, "--json"])
    return code, {each["what"]: each for each in json.loads(capsys.readouterr().out)}


def test_all_is_well(
    project: Path, kubernetes: TestNamespace, capsys: pytest.CaptureFixture[str], wait_until: Wait
) -> None:
    code, found = findings(capsys, "gpu")
    assert code == 0
    states = {what: each["state"] for what, each in found.items()}
    del states["operator"]  # which is a process of the test's own
    assert states == dict.fromkeys(
        ("here", "Kubernetes", "namespace", "permissions", "custom resources", "nodes", "image", "packages"),
        "ok",
    )
    assert kubernetes.namespace in found["namespace"]["text"]
    if kubernetes.running:
        wait_until(lambda: kubernetes.double.pods(kubernetes.namespace) == [], what="its pod gone")


@pytest.mark.double_only
def test_each_lack_is_found(
    project: Path,
    kubernetes: TestNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = bare_image(tmp_path / "image")
    next(image.glob("lib/python*/site-packages/xxhash-*")).unlink()
    kubernetes.double.images["with-dask"] = image
    write(project, kubernetes, image="with-dask")
    code, found = findings(capsys, "gpu")
    assert code == 1
    assert found["packages"]["state"] == "bad"
    assert "lacks xxhash" in found["packages"]["text"]

    write(project, kubernetes, image="registry.example/none:1")
    code, found = findings(capsys, "gpu")
    assert (code, found["image"]["state"]) == (1, "bad")
    assert "registry.example/none:1" in found["image"]["text"]

    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
    rules.append({"apiGroups": ["authorization.k8s.io"], "resources": ["*"], "verbs": ["*"]})
    guest = kubernetes.double.add_user("guest", rules, namespace=kubernetes.namespace)
    monkeypatch.setenv("KUBECONFIG", str(guest))
    code, found = findings(capsys, "gpu", "--no-pod")
    assert (code, found["permissions"]["state"]) == (1, "bad")
    assert "create/delete DaskCluster" in found["permissions"]["text"]
    assert "create Pod/portforward" in found["permissions"]["text"]
    assert found["roles"]["state"] == "warning"

    write(project, kubernetes, top='namespace = "nosuch"')
    code, found = findings(capsys, "gpu", "--no-pod")
    assert (code, found["namespace"]["state"]) == (1, "bad")


@pytest.mark.double_only
def test_what_a_profile_names_is_looked_for(
    project: Path,
    kubernetes: TestNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    top = """
service_account = "runner"
image_pull_secrets = ["registry"]
secrets = { TOKEN = "hub/token" }
volumes = [{ path = "/data", claim = "data" }, { path = "/settings", config_map = "settings" }]
"""
    workers = 'gpus = 2\ngpu_resource = "example.com/gpu"\nsecrets = { KEY = "hub/key" }'
    write(project, kubernetes, top=top, workers=workers)

    def found() -> tuple[int, dict[str, tuple[str, str]]]:
        """The state and text of each finding about what is named."""
        code = cli.main(["doctor", "gpu", "--no-pod", "--json"])
        rows = json.loads(capsys.readouterr().out)
        about = {"service account", "image pull secret", "secret", "volume", "nodes"}
        names = {row["what"] + row["text"].partition(" '")[2].partition("'")[0]: row for row in rows}
        return code, {key: (row["state"], row["text"]) for key, row in names.items() if row["what"] in about}

    code, lacking = found()
    assert code == 1
    assert {key: state for key, (state, _) in lacking.items() if state == "bad"} == dict.fromkeys(
        ("service accountrunner", "image pull secretregistry", "secrethub", "volumedata", "volumesettings"),
        "bad",
    )
    assert (
        "warning",
        "no node has 2 example.com/gpu for a worker of the group 'default'",
    ) in lacking.values()

    def make(resource: str, name: str, **more: Any) -> None:
        kubernetes.double.create(
            resource, {"metadata": {"name": name, "namespace": kubernetes.namespace}, **more}
        )

    make("serviceaccounts", "runner")
    make("secrets", "registry", stringData={".dockerconfigjson": "{}"})
    make("secrets", "hub", stringData={"token": "x"})
    make("persistentvolumeclaims", "data")
    make("configmaps", "settings", data={})
    taint = {"key": "example.com/gpu", "effect": "NoSchedule"}
    kubernetes.double.add_node("node-gpu", resources={"example.com/gpu": 2}, taints=[taint])
    try:
        code, rest = found()
        assert code == 1
        assert rest["secrethub"] == ("bad", "Secret 'hub' has no key 'key'")
        assert [state for state, _ in rest.values()].count("bad") == 1
        tolerations = 'tolerations = [{ key = "example.com/gpu", operator = "Exists" }]'
        write(
            project, kubernetes, top=top, workers=f'gpus = 2\ngpu_resource = "example.com/gpu"\n{tolerations}'
        )
        code, all_there = found()
        assert {state for state, _ in all_there.values()} == {"ok"}
    finally:
        kubernetes.double.remove_node("node-gpu")
    groups = ["", "apps", "kubernetes.dask.org", "authorization.k8s.io"]
    rules = [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"], "namespaces": [kubernetes.namespace]}]
    monkeypatch.setenv(
        "KUBECONFIG", str(kubernetes.double.add_user("dev", rules, namespace=kubernetes.namespace))
    )
    code, unknown = found()
    assert code == 0
    assert (
        "unknown",
        "you may not list nodes: whether one can take a worker is not known",
    ) in unknown.values()


def test_the_roles_that_rbac_prints_are_enough(
    project: Path,
    kubernetes: TestNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(
        project, kubernetes, top=f'namespace = "{kubernetes.namespace}"\nservice_account = "nbcloud-steward"'
    )
    assert cli.main(["kubernetes", "rbac", "-p", "gpu"]) == 0
    roles = list(yaml.safe_load_all(capsys.readouterr().out))
    if not kubernetes.running:
        pytest.skip("takes users of its own")
    plurals = {
        "Role": "roles.rbac.authorization.k8s.io",
        "RoleBinding": "rolebindings.rbac.authorization.k8s.io",
        "ServiceAccount": "serviceaccounts",
    }
    for manifest in roles:
        kubernetes.double.create(plurals[manifest["kind"]], manifest)
    user = next(each for each in roles if each["metadata"]["name"] == "nbcloud-user")
    kubeconfig = kubernetes.double.add_user("dev", user["rules"], namespace=kubernetes.namespace)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    phases: list[str] = []
    info = connect.up("gpu", progress=phases.append)
    assert not any("may not" in phase for phase in phases)
    connect.scale(info, 2)
    assert connect.alive(info)
    assert cli.main(["up", "gpu"]) == 0
    connect.down(info)


def test_the_operator_is_installed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    """On a Kubernetes that knows nothing of Dask, up to a cluster that works."""
    with KubernetesDouble() as double:
        double.create("namespaces", {"metadata": {"name": "ml"}})
        monkeypatch.setenv("KUBECONFIG", str(double.add_user("admin", namespace="ml")))
        monkeypatch.chdir(tmp_path)
        text = '[profiles.gpu]\nkind = "kubernetes"\nimage = "nbcloud-test"\nworkers = { memory = "1GiB", cpus = 1 }\n'
        (tmp_path / "nbcloud.toml").write_text(text)
        assert cli.main(["kubernetes", "install", "--image", "nbcloud-test"]) == 0
        assert cli.main(["doctor", "gpu", "--no-pod"]) == 0
        info = connect.up("gpu")
        assert len(connect.status(info)["workers"]) == 1
        assert cli.main(["kubernetes", "uninstall"]) == 1
        assert connect.alive(info)
        assert cli.main(["kubernetes", "uninstall", "--all"]) == 0
        wait_until(lambda: double.pods("ml") == [], what="its pods gone")
        wait_until(lambda: double.pods(operator.NAMESPACE) == [], what="the operator gone")


def test_what_the_operator_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kubernetes", "install", "--dry-run"]) == 0
    made = {each["kind"]: each for each in yaml.safe_load_all(capsys.readouterr().out)}
    pod = made["Deployment"]["spec"]["template"]["spec"]
    assert "kopf<1.42" in pod["initContainers"][0]["command"][-1]
    assert pod["containers"][0]["image"].endswith(f":{operator.version()}")
    assert {"name": "LOGNAME", "value": "dask"} in pod["containers"][0]["env"]
    assert any("daskclusters" in rule["resources"] for rule in made["ClusterRole"]["rules"])


@pytest.mark.double_only
def test_sync_names_what_differs_and_installs_what_is_missing(
    project: Path, kubernetes: TestNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = bare_image(tmp_path / "image")
    packages = next(image.glob("lib/python*/site-packages"))
    for path in packages.glob("tqdm*"):
        path.unlink()
    kubernetes.double.images["without-tqdm"] = image
    write(project, kubernetes, image="without-tqdm")
    connect.up("gpu")
    assert cli.main(["sync", "gpu", "--all", "--json"]) == 0
    rows = {row["package"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {"tqdm"}
    assert rows["tqdm"]["there"] == ""
    assert cli.main(["sync", "gpu", "--all", "--install"]) == 0
    assert "Installed there: tqdm==" in capsys.readouterr().out
    assert cli.main(["sync", "gpu", "--all"]) == 0
    assert "have the same packages" in capsys.readouterr().out


def test_what_workers_cost(
    project: Path, kubernetes: TestNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project, kubernetes, workers="price = 3600.0")
    connect.up("gpu")
    assert cli.main(["cost", "gpu", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["groups"][0]["price"] == 3600.0
    assert cli.main(["cost", "gpu", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert 0 < first["total"] < second["total"] < 600
    assert second["past"] == []
    assert cli.main(["cost", "gpu"]) == 0
    assert "the workers of 'gpu' have cost" in capsys.readouterr().out
    write(project, kubernetes, workers="price = 2.0")
    assert cli.main(["up", "gpu"]) == 0
    told = "workers.price is 3600.0 there, and 2.0 in the profile. To take that on: nbcloud down gpu, then up"
    assert told in capsys.readouterr().out
    assert cli.main(["down", "gpu"]) == 0
    capsys.readouterr()
    for words in (["cost", "gpu", "--json"], ["cost", "--json"]):
        assert cli.main(words) == 0
        past = json.loads(capsys.readouterr().out)
        assert second["total"] < past["total"] < 3600
        assert [each["name"] for each in past["past"]] == ["gpu"]
    assert cli.main(["cost", "other"]) == 1

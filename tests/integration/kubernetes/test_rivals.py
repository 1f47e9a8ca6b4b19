"""Others at the same time, others' things of the same name, and starts that are cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbcloud.clusters import connect, registry
from nbcloud.clusters.kubernetes import creation
from nbcloud.errors import ClusterError, UsageError
from tests.conftest import NBCLOUD, ROOT
from tests.integration.kubernetes.profiles import failure, known, write
from tests.integration.kubernetes.test_start import left
from tests.integration.notebooks import RunningNotebook, Shown
from tests.kubernetes.conftest import TestNamespace

Wait = Callable[..., Any]
CLUSTERS = "daskclusters.kubernetes.dask.org"


@pytest.fixture
def shell(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begin ``nbcloud …`` in a process of its own, as on another machine when it is given a name."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*words: str, machine: str = "") -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if machine:
            environment["NBCLOUD_RUNTIME_DIR"] = str(project / machine)
        pipes: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", NBCLOUD, *words]
        begun.append(subprocess.Popen(command, env=environment, cwd=project, text=True, **pipes))
        return begun[-1]

    yield begin
    for each in begun:
        each.kill()
        each.communicate()


@pytest.mark.double_only
def test_two_machines_that_start_it_at_once_share_it(
    shell: Callable[..., subprocess.Popen[str]], kubernetes: TestNamespace
) -> None:
    rivals = [shell("up", "gpu", machine=name) for name in ("one", "two")]
    said = [each.communicate(timeout=120) for each in rivals]
    assert [each.returncode for each in rivals] == [0, 0], said
    assert len(kubernetes.double.objects(CLUSTERS, kubernetes.namespace)) == 1
    ended = shell("down", "gpu", machine="three").communicate(timeout=60)
    assert "Stopped: 'gpu'" in ended[0], ended
    assert left(kubernetes) == []


@pytest.mark.double_only
def test_a_notebook_hears_that_its_cluster_was_taken_down_in_a_shell(
    notebook: RunningNotebook, shell: Callable[..., subprocess.Popen[str]]
) -> None:
    for _ in range(2):  # also after it was up again
        assert not notebook.run("%cloud up gpu").error
        assert notebook.run("%%cloud\nx = 41\nx + 1").result == "42"
        assert shell("down", "gpu").wait(60) == 0
        for _ in range(2):
            shown = notebook.run("%%cloud\nx", limit=15)
            assert shown.error == "ClusterNotFound"
            assert "The cluster 'gpu' of this notebook is gone: it was taken down" in shown.traceback
            assert "Type: %cloud up gpu" in shown.traceback
    ways = "from nbcloud.clusters.kubernetes import forward, thread\nimport asyncio\n"
    shown = notebook.run(f"{ways}len(forward._forwards), len(asyncio.all_tasks(thread.loop()))")
    assert shown.result == "(0, 0)"


@pytest.mark.double_only
def test_a_cell_ends_when_its_cluster_is_taken_down_in_a_shell(
    notebook: RunningNotebook, shell: Callable[..., subprocess.Popen[str]]
) -> None:
    connect.up("gpu")
    downs: list[subprocess.Popen[str]] = []

    def once(shown: Shown) -> bool:
        if shown.text() == "here\n":
            downs.append(shell("down", "gpu"))
        return bool(downs)

    shown = notebook.run("%%cloud\nimport time\nprint('here')\ntime.sleep(600)", meanwhile=once)
    assert shown.error == "RunLost"
    assert "the cluster 'gpu'" in shown.traceback
    assert downs[0].wait(60) == 0


@pytest.mark.double_only
def test_what_others_made_is_left_alone(project: Path, kubernetes: TestNamespace, wait_until: Wait) -> None:
    metadata = {"name": "mine-tls", "namespace": kubernetes.namespace, "labels": {"app": "shop"}}
    kubernetes.double.create("secrets", {"metadata": metadata, "data": {"tls.key": "c2VjcmV0"}})
    write(project, kubernetes, top='cluster_name = "mine"')
    error = failure(lambda: connect.up("gpu"))
    assert isinstance(error, UsageError)
    assert "a Secret 'mine-tls' that nbcloud did not make" in error.message
    wait_until(lambda: left(kubernetes) == ["mine-tls"], what="nothing left but what others made")

    name = "theirs"
    plain = {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster"}
    spec = {"worker": {"replicas": 0, "spec": {"containers": []}}, "scheduler": {"spec": {"containers": []}}}
    spec["scheduler"]["service"] = {"type": "ClusterIP"}
    place = {"name": name, "namespace": kubernetes.namespace}
    kubernetes.operator.stop()
    try:
        kubernetes.double.create(CLUSTERS, {**plain, "metadata": place, "spec": spec})
        write(project, kubernetes, top=f'cluster_name = "{name}"')
        error = failure(lambda: connect.up("gpu"))
        assert "nbcloud did not make" in error.message
        assert len(kubernetes.double.objects(CLUSTERS, kubernetes.namespace)) == 1
        cluster = kubernetes.double.objects(CLUSTERS, kubernetes.namespace)[0]
        kubernetes.double.do(kubernetes.double.store.delete, CLUSTERS, cluster)
    finally:
        kubernetes.operator.start()


@pytest.mark.double_only
@pytest.mark.parametrize("at", [CLUSTERS, "secrets", "deployments.apps"])
def test_an_interrupted_start_leaves_nothing(
    shell: Callable[..., subprocess.Popen[str]], kubernetes: TestNamespace, wait_until: Wait, at: str
) -> None:
    start = shell("up", "gpu")
    wait_until(lambda: kubernetes.double.objects(at, kubernetes.namespace), what=at)
    start.send_signal(signal.SIGINT)
    said = start.communicate(timeout=60)
    assert start.returncode == 130, said
    wait_until(lambda: left(kubernetes) == [], what="nothing left")
    assert registry.entries() == []


@pytest.mark.double_only
@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_right_behind_the_last_part_leaves_nothing(
    project: Path,
    kubernetes: TestNamespace,
    wait_until: Wait,
    monkeypatch: pytest.MonkeyPatch,
    before: bool,
) -> None:
    write(project, kubernetes)
    register = creation.register

    def interrupted(*found: Any) -> Any:
        if not before:
            register(*found)
        raise KeyboardInterrupt

    monkeypatch.setattr(creation, "register", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connect.up("gpu")
    wait_until(lambda: left(kubernetes) == [], what="nothing left")
    assert registry.entries() == []
    assert [each.name for each in registry.folder().iterdir() if each.is_dir()] == []


@pytest.mark.double_only
@pytest.mark.parametrize("at", [CLUSTERS, "configmaps", "secrets", "deployments.apps"])
def test_a_killed_start_is_gone_on_with_and_leaves_nothing_in_the_end(
    shell: Callable[..., subprocess.Popen[str]], kubernetes: TestNamespace, wait_until: Wait, at: str
) -> None:
    start = shell("up", "gpu")
    wait_until(lambda: kubernetes.double.objects(at, kubernetes.namespace), what=at)
    start.kill()
    start.wait()
    info = connect.up("gpu")
    assert len(connect.status(info)["workers"]) == 1
    connect.down(info)
    wait_until(lambda: left(kubernetes) == [], what="nothing left")


@pytest.mark.double_only
def test_an_api_server_that_is_away_for_a_moment_ends_no_start(
    shell: Callable[..., subprocess.Popen[str]], kubernetes: TestNamespace, wait_until: Wait
) -> None:
    start = shell("up", "gpu")
    # Not sooner: what the operator fails to do, it tries again only after a minute.
    both = "deployments.apps", kubernetes.namespace
    wait_until(lambda: len(kubernetes.double.objects(*both)) == 2, what="scheduler and worker")
    kubernetes.double.stop_api_server()
    time.sleep(2)  # the outage itself, not a wait for something
    kubernetes.double.start_api_server()
    said = start.communicate(timeout=90)
    assert start.returncode == 0, said


@pytest.mark.double_only
def test_a_profile_that_points_elsewhere_now_does_not_lose_its_cluster(
    project: Path, kubernetes: TestNamespace
) -> None:
    info = connect.up("gpu")
    kubernetes.double.create("namespaces", {"metadata": {"name": "elsewhere"}})
    write(project, kubernetes, top='namespace = "elsewhere"')
    error = failure(lambda: connect.up("gpu"))
    assert isinstance(error, ClusterError)
    assert f"up already, in the namespace {kubernetes.namespace!r}" in error.message
    assert registry.get("gpu") == info
    connect.down(info)
    assert known().namespace == "elsewhere"
    assert left(kubernetes) == []


@pytest.mark.double_only
def test_no_key_is_left_in_the_temporary_folder(
    shell: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    assert shell("ls").wait(60) == 0
    assert list(folder.iterdir()) == []

"""Truth is in Kubernetes: clusters are found again, grow and shrink, and go away by themselves."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbcloud import cli
from nbcloud.clusters import connect, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.dispatch import links
from nbcloud.dispatch.links import close_links, link_to
from nbcloud.errors import ClusterNotFound, UsageError
from tests.integration.kubernetes.profiles import failure, write
from tests.integration.notebooks import RunningNotebook, Shown
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.images import bare_image

Wait = Callable[..., Any]


def workers(info: ClusterInfo) -> list[str]:
    """Names of the workers that have joined."""
    return [str(worker["name"]) for worker in connect.status(info)["workers"]]


def pods(kubernetes: TestNamespace, group: str) -> list[str]:
    """Names of the pods of a group, those that are ending not counted."""
    found = kubernetes.double.pods(kubernetes.namespace, f"dask.org/workergroup-name={group}")
    return [pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")]


def test_cells_run_and_their_image_needs_no_nbcloud(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, tmp_path: Path
) -> None:
    if kubernetes.running:
        kubernetes.double.images["plain"] = bare_image(tmp_path / "plain")
        write(project, kubernetes, image="plain")
    assert connect.up("gpu").ready
    shown = notebook.run("%%cloud\nimport nbcloud\nprint(nbcloud.__file__)\nx = 41\nx + 1")
    assert shown.result == "42", shown.messages
    assert "nbcloud.zip" in shown.text()
    assert notebook.run("x").result == "41"
    notebook.run("import numpy as np\nbig = np.arange(2_000_000.0)")
    assert notebook.run("%%cloud\nprint(big.sum())").text() == "1999999000000.0\n"
    assert notebook.run("%%cloud -o more\nmore = big + 1").error == ""
    assert notebook.run("print(more[-1])").text() == "2000000.0\n"
    assert notebook.run("%%cloud\n1 / 0").error == "ZeroDivisionError"


def test_it_is_found_again_without_the_registry(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = connect.up("gpu")
    monkeypatch.setenv("NBCLOUD_RUNTIME_DIR", str(tmp_path / "another-laptop"))
    assert cli.main(["ls"]) == 0
    assert "gpu" in capsys.readouterr().out
    again = connect.resolve("gpu")
    assert again.id == info.id
    assert workers(again) == workers(info)
    assert connect.up("gpu").id == info.id
    connect.down(again)
    assert isinstance(failure(lambda: connect.resolve("gpu")), ClusterNotFound)
    monkeypatch.setenv("NBCLOUD_RUNTIME_DIR", str(tmp_path / "run"))
    assert isinstance(failure(lambda: connect.resolve("gpu")), ClusterNotFound)
    assert registry.entries() == []


@pytest.mark.double_only
def test_the_list_waits_for_no_kubernetes_that_is_out_of_reach_and_says_which(
    project: Path, kubernetes: TestNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    connect.up("gpu")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        text = kubernetes.kubeconfig.read_text()
        server = next(line for line in text.splitlines() if "server:" in line)
        address = f"{server.partition('server:')[0]}server: https://127.0.0.1:{silent.getsockname()[1]}"
        for name in ("far", "away"):
            (project / name).write_text(text.replace(server, address))
        with (project / "nbcloud.toml").open("a") as file:
            for name in ("far", "away"):
                file.write(f'\n[profiles.{name}]\nkind = "kubernetes"\nkubeconfig = "{project / name}"\n')
        began = time.monotonic()
        assert cli.main(["ls", "--json"]) == 0
        assert time.monotonic() - began < 9  # one after the other, it would be 10 at least
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert {name: each["state"] for name, each in found.items()} == {"gpu": "up", "far": "?", "away": "?"}
    assert "gave no answer within" in found["far"]["trouble"]
    assert "trouble" not in found["gpu"]
    kubernetes.double.stop_api_server()
    try:
        assert cli.main(["ls"]) == 0
    finally:
        kubernetes.double.start_api_server()
    said = capsys.readouterr().out
    assert "out of reach" in said
    assert "Whether 'gpu' is up is not known: " in said


@pytest.mark.double_only
def test_a_scheduler_that_comes_back_is_waited_for_and_what_keeps_it_is_told(
    project: Path, kubernetes: TestNamespace
) -> None:
    def cordon(unschedulable: bool) -> None:
        store = kubernetes.double.store
        node = store.get("nodes", "", "node-moon")
        store.change("nodes", node, lambda each: each["spec"].update(unschedulable=unschedulable))

    kubernetes.double.add_node("node-moon", labels={"zone": "moon"})
    try:
        write(project, kubernetes, top='node_selector = { zone = "moon" }')
        info = connect.up("gpu")
        kubernetes.double.do(lambda: cordon(True))
        (pod,) = kubernetes.double.pods(kubernetes.namespace, "dask.org/component=scheduler")
        store = kubernetes.double.store
        kubernetes.double.do(lambda: store.delete("pods", pod, grace=0))
        told: list[str] = []

        def progress(text: str) -> None:
            if "no node can take the scheduler" in text:
                kubernetes.double.do(lambda: cordon(False))
            told.append(text)

        assert not links.connect("gpu", progress=progress).ask("sessions")
        assert any("no node can take the scheduler" in text for text in told)
        assert links.connect("gpu").info == info
    finally:
        kubernetes.double.remove_node("node-moon")


def test_down_leaves_nothing(project: Path, kubernetes: TestNamespace, wait_until: Wait) -> None:
    info = connect.up("gpu")
    connect.down(info)
    assert registry.entries() == []
    assert not Path(info.directory or "").exists()
    if kubernetes.running:
        kinds = (
            "daskclusters.kubernetes.dask.org",
            "daskworkergroups.kubernetes.dask.org",
            "secrets",
            "services",
        )
        wait_until(
            lambda: (
                [each for kind in kinds for each in kubernetes.double.objects(kind, kubernetes.namespace)]
                == []
            ),
            what="nothing left in the namespace",
        )
    connect.down(info)


@pytest.mark.double_only
def test_scaling_spares_other_groups_and_sessions(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, wait_until: Wait
) -> None:
    write(project, kubernetes, rest='[profiles.gpu.groups.fpga]\ncpus = 1\nmemory = "512MiB"\n')
    info = connect.up("gpu")
    name = info.options["object"]
    assert len(workers(info)) == 2
    connect.scale(info, 3)
    wait_until(lambda: len(workers(info)) == 4, limit=90, what="four workers")
    assert notebook.run("%%cloud -s a --memory 600MiB\nx = 1").error == ""
    there = {worker["address"]: str(worker["name"]) for worker in connect.status(info)["workers"]}
    held = notebook.run(
        "%%cloud -s a --memory 600MiB\nimport os; os.environ.get('DASK_WORKER_NAME')"
    ).result.strip("'")
    assert held in there.values()
    connect.scale(info, 1)
    wait_until(lambda: len(workers(info)) == 2, limit=90, what="two workers")
    assert held in workers(info)
    assert len(pods(kubernetes, f"{name}-fpga")) == 1
    assert notebook.run("%%cloud -s a --memory 600MiB\nx").result == "1"
    assert not notebook.run("%%cloud -s a --memory 600MiB --bg\nimport time\ntime.sleep(60)").error
    wait_until(lambda: any(run["state"] == "running" for run in link_to(info).ask("runs")), what="the run")
    told: list[str] = []
    connect.scale(info, 0, "fpga")
    connect.scale(info, 2)
    wait_until(lambda: len(workers(info)) == 2, limit=90, what="another worker")
    busy_first = notebook.run("%%cloud -s b --memory 600MiB --bg\nimport time\ntime.sleep(60)")
    assert not busy_first.error
    wait_until(
        lambda: sum(run["state"] == "running" for run in link_to(info).ask("runs")) == 2, what="both runs"
    )
    connect.scale(info, 1, progress=told.append)
    assert "1 worker will go when what runs there has ended." in told
    assert not any("scale auto" in text for text in told)
    assert len(workers(info)) == 2
    wait_until(lambda: pods(kubernetes, f"{name}-fpga") == [], what="no worker of the group")
    close_links()
    error = failure(lambda: connect.scale(info, 2, "gpus"))
    assert isinstance(error, UsageError)
    assert "There are: default, fpga" in error.hint


@pytest.mark.double_only
def test_a_pending_worker_goes_first(project: Path, kubernetes: TestNamespace, wait_until: Wait) -> None:
    kubernetes.double.add_node("node-one", resources={"example.com/one": 1})
    try:
        write(project, kubernetes, workers='gpus = 1\ngpu_resource = "example.com/one"')
        info = connect.up("gpu")
        running = workers(info)
        connect.scale(info, 2)
        group = f"{info.options['object']}-default"
        wait_until(lambda: len(pods(kubernetes, group)) == 2, what="a second pod, pending")
        connect.scale(info, 1)
        wait_until(lambda: len(pods(kubernetes, group)) == 1, what="one pod")
        assert workers(info) == running
    finally:
        kubernetes.double.remove_node("node-one")


@pytest.mark.double_only
def test_an_adaptive_group_follows_the_work(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, wait_until: Wait
) -> None:
    adaptive = 'minimum = 0\nmaximum = 2\nidle_workers = "6s"\nidle_sessions = "3s"'
    write(project, kubernetes, workers=adaptive)
    info = connect.up("gpu")
    assert workers(info) == []
    for name in "ab":
        code = (
            f"import pathlib, time\nwhile not pathlib.Path({str(project / name)!r}).exists(): time.sleep(0.1)"
        )
        assert notebook.run(f"%%cloud -s {name} --memory 700MiB --bg\n{code}").error == ""
    wait_until(lambda: len(workers(info)) == 2, limit=90, what="two workers")
    (project / "a").touch()
    wait_until(lambda: len(workers(info)) == 1, limit=60, what="the idle one gone")
    (project / "b").touch()
    wait_until(lambda: workers(info) == [], limit=60, what="no worker")
    group = f"{info.options['object']}-default"
    wait_until(lambda: pods(kubernetes, group) == [], what="no pod")
    again = notebook.run("%%cloud -s a --memory 700MiB\nprint('again')")
    assert again.text() == "again\n", again.messages
    assert "its worker was given back, because it had nothing to do" in again.notes


@pytest.mark.double_only
def test_an_adaptive_group_that_was_scaled_follows_the_work_again_on_request(
    project: Path, kubernetes: TestNamespace, capsys: pytest.CaptureFixture[str], wait_until: Wait
) -> None:
    write(project, kubernetes, workers='minimum = 0\nmaximum = 2\nidle_workers = "1s"')
    info = connect.up("gpu")
    assert cli.main(["scale", "1", "-c", "gpu"]) == 0
    said = capsys.readouterr().out
    assert "It stays at that; to follow the work again: nbcloud scale auto -c gpu" in said
    wait_until(lambda: len(workers(info)) == 1, limit=90, what="the worker that was asked for")
    assert cli.main(["scale", "auto", "-c", "gpu"]) == 0
    assert "The group 'default' of 'gpu' follows the work again" in capsys.readouterr().out
    wait_until(lambda: workers(info) == [], limit=90, what="the idle worker gone")


@pytest.mark.double_only
def test_a_cell_that_waits_for_a_worker_tells_why_none_comes(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace
) -> None:
    text = 'minimum = 0\nmaximum = 1\ngpus = 1\ngpu_resource = "example.com/fpga"'
    write(project, kubernetes, workers=text)
    connect.up("gpu")

    def once(shown: Shown) -> bool:
        phases = [each["data"]["text/plain"] for each in shown.of_type("update_display_data")]
        if not any("Insufficient example.com/fpga" in phase for phase in phases):
            return False
        kubernetes.double.add_node("node-fpga", resources={"example.com/fpga": 1})
        return True

    try:
        shown = notebook.run("%%cloud --gpus 1\nprint('here')", meanwhile=once)
        assert shown.text() == "here\n", shown.messages
        never = notebook.run("%%cloud -s b --gpus 2\n1")
        assert "No worker of this cluster has 2 GPUs: the largest has 1 GPU" in never.traceback
    finally:
        kubernetes.double.remove_node("node-fpga")


@pytest.mark.double_only
def test_an_idle_cluster_ends_but_not_while_a_run_is_on(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, wait_until: Wait
) -> None:
    write(project, kubernetes, top='idle_timeout = "3s"')
    info = connect.up("gpu")
    began = time.monotonic()
    assert notebook.run("%%cloud\nimport time\ntime.sleep(7)\nprint('still here')").text() == "still here\n"
    assert time.monotonic() - began > 7
    assert connect.alive(info)
    wait_until(lambda: not connect.alive(info), limit=60, what="the end of the idle cluster")
    assert isinstance(failure(lambda: connect.resolve("gpu")), ClusterNotFound)


def test_a_cluster_that_is_not_to_outlive_its_notebook_ends_with_it(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, wait_until: Wait
) -> None:
    write(project, kubernetes, top="shutdown_on_close = true")
    assert not notebook.run("%cloud up gpu").error
    info = connect.resolve("gpu")
    assert notebook.run("%%cloud\n6 * 7").result == "42"
    notebook.manager.shutdown_kernel()
    wait_until(lambda: not connect.alive(info), limit=60, what="the end of the cluster")


def test_dry_run_shows_all_and_changes_nothing(
    project: Path, kubernetes: TestNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["up", "gpu", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for word in ("kind: DaskCluster", "kind: Secret", "'***'", "dask\n", "kind: RoleBinding"):
        assert word in printed
    assert "PRIVATE KEY" not in printed
    if kubernetes.running:
        assert kubernetes.double.objects("daskclusters.kubernetes.dask.org", kubernetes.namespace) == []
    assert registry.entries() == []

"""Cells on Kubernetes: GPUs in a queue, pods that go, connections that break, notebooks that come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from nbcloud import cli
from nbcloud.clusters import connect
from tests.integration.kubernetes.profiles import write
from tests.integration.notebooks import RunningNotebook, Shown, running_notebook
from tests.kubernetes.conftest import TestNamespace
from tests.kubernetes.images import bare_image

Wait = Callable[..., Any]


def pod_of(kubernetes: TestNamespace, component: str) -> str:
    """The name of the only pod of a kind."""
    found = kubernetes.double.pods(kubernetes.namespace, f"dask.org/component={component}")
    alive = [pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")]
    assert len(alive) == 1
    return str(alive[0])


def delete(kubernetes: TestNamespace, pod: str) -> None:
    """As ``kubectl delete pod --force`` does."""

    def now() -> None:
        store = kubernetes.double.store
        store.delete("pods", store.get("pods", kubernetes.namespace, pod), grace=0)

    kubernetes.double.do(now)


def printed(text: str) -> Callable[[Shown], bool]:
    return lambda shown: text in shown.text()


LONG = """%%cloud
import time
for number in range(40):
    print(number, flush=True)
    time.sleep(0.1)
"""


@pytest.mark.double_only
def test_two_runs_share_one_gpu_one_after_the_other(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    kubernetes.double.add_node("node-gpu", resources={"nvidia.com/gpu": 1})
    try:
        write(project, kubernetes, workers="gpus = 1\nprice = 3600.0")
        connect.up("gpu")
        first = notebook.run("%%cloud --fresh --gpus 1 --bg\nimport os, time\ntime.sleep(3)\nprint('first')")
        assert not first.error
        second = notebook.run(
            "%%cloud -s other --gpus 1\nimport os\nprint(os.environ['CUDA_VISIBLE_DEVICES'])", limit=60
        )
        assert second.text() == "0\n", second.messages
        phases = [each["data"]["text/plain"] for each in second.of_type("display_data")]
        phases += [each["data"]["text/plain"] for each in second.of_type("update_display_data")]
        assert any("waiting in the queue: 1 GPU is taken on every worker" in phase for phase in phases)
        never = notebook.run("%%cloud -s more --gpus 2\n1")
        assert "No worker of this cluster has 2 GPUs: the largest has 1 GPU" in never.traceback
        assert cli.main(["runs", "--json"]) == 0
        run = next(each for each in json.loads(capsys.readouterr().out) if "environ" in each["code"])
        assert run["resources"]["CUDA_VISIBLE_DEVICES"] == "0"
        assert 0 < run["used"]["cost"] < 60
    finally:
        kubernetes.double.remove_node("node-gpu")


@pytest.mark.double_only
def test_an_api_server_that_starts_anew_is_not_noticed(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace
) -> None:
    connect.up("gpu")
    began: list[bool] = []

    def once(shown: Shown) -> bool:
        if "5\n" not in shown.text():
            return False
        kubernetes.double.restart_api_server()
        began.append(True)
        return True

    shown = notebook.run(LONG, meanwhile=once)
    assert began
    assert shown.text().split() == [str(number) for number in range(40)], shown.traceback or shown.notes
    assert notebook.run("%%cloud\nnumber").result == "39"


@pytest.mark.double_only
def test_a_worker_pod_that_goes_ends_its_session_with_a_sentence(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace
) -> None:
    connect.up("gpu")

    def once(shown: Shown) -> bool:
        if "5" not in shown.text():
            return False
        delete(kubernetes, pod_of(kubernetes, "worker"))
        return True

    shown = notebook.run(LONG, meanwhile=once)
    assert "5" in shown.text().split()
    assert "its worker is gone" in shown.traceback
    again = notebook.run("%%cloud\nprint('again')", limit=90)
    assert again.text() == "again\n", again.traceback or again.messages
    assert "This is a new one" in again.notes


@pytest.mark.double_only
def test_a_scheduler_pod_that_goes_ends_runs_and_comes_back(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace
) -> None:
    connect.up("gpu")

    def once(shown: Shown) -> bool:
        if "5" not in shown.text():
            return False
        delete(kubernetes, pod_of(kubernetes, "scheduler"))
        return True

    shown = notebook.run(LONG, meanwhile=once, limit=150)
    assert "5" in shown.text().split()
    assert shown.error, shown.messages
    again = notebook.run("%%cloud\nprint('again')", limit=120)
    assert again.text() == "again\n", again.traceback or again.messages


def test_a_notebook_that_dies_finds_its_run_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCLOUD_CLUSTER", "gpu")
    connect.up("gpu")
    with running_notebook(folder=project) as first:
        message = first.start(LONG.replace("%%cloud", "%%cloud --name long"))
        deadline = time.monotonic() + 60
        shown = ""
        while "3" not in shown:
            assert time.monotonic() < deadline
            reply = first.client.get_iopub_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message and reply["msg_type"] == "stream":
                shown += reply["content"]["text"]
        first.manager.signal_kernel(9)
    with running_notebook(folder=project) as second:
        attached = second.run("%cloud attach long")
        assert attached.text().split() == [str(number) for number in range(40)]


def image_with(kubernetes: TestNamespace, folder: Path, change: Callable[[Path], None]) -> str:
    """The name of an image whose packages were changed."""
    image = bare_image(folder)
    change(next(image.glob("lib/python*/site-packages")))
    kubernetes.double.images[folder.name] = image
    return folder.name


@pytest.mark.double_only
def test_workers_that_join_later_are_looked_at_before_a_session_runs_there(
    notebook: RunningNotebook, project: Path, kubernetes: TestNamespace, tmp_path: Path
) -> None:
    def another_cloudpickle(packages: Path) -> None:
        (info,) = packages.glob("cloudpickle-*.dist-info")
        text = (info / "METADATA").read_text()
        info.unlink()
        info.mkdir()
        (info / "METADATA").write_text(text.replace(f"Version: {cloudpickle.__version__}", "Version: 1.2.3"))

    def no_kernels(packages: Path) -> None:
        for path in (*packages.glob("ipykernel*"), *packages.glob("xxhash*")):
            path.unlink()

    group = '[profiles.gpu.groups.{}]\nimage = "{}"\nminimum = 0\nmaximum = 1\ncpus = {}\nmemory = "1GiB"\n'
    other = image_with(kubernetes, tmp_path / "another", another_cloudpickle)
    less = image_with(kubernetes, tmp_path / "less", no_kernels)
    write(project, kubernetes, rest=group.format("another", other, 2) + group.format("less", less, 3))
    connect.up("gpu")
    assert "cloudpickle" not in notebook.run("%%cloud\n1").notes
    said = f"cloudpickle is {cloudpickle.__version__} here and 1.2.3 there (workers): values of it may not travel."
    assert said in notebook.run("%%cloud -s two --cpus 2\n1", limit=90).notes
    assert said not in notebook.run("%%cloud -s two --cpus 2\n1").notes
    refused = notebook.run("%%cloud -s three --cpus 3\n1", limit=90)
    assert "lacks ipykernel, xxhash, which nbcloud needs there" in refused.traceback, refused.messages


def test_ranks_on_kubernetes(notebook: RunningNotebook, project: Path, kubernetes: TestNamespace) -> None:
    write(project, kubernetes, workers="minimum = 2")
    connect.up("gpu")
    shown = notebook.run(
        "%%cloud --workers 2\nimport torch, torch.distributed as dist\ndist.init_process_group('gloo')\n"
        "value = torch.ones(1)\ndist.all_reduce(value)\nprint(dist.get_rank(), int(value))\n"
        "dist.destroy_process_group()",
        limit=120,
    )
    assert sorted(shown.text().splitlines()) == ["[0] 0 2", "[1] 1 2"], shown.messages

"""``--gpus``: sessions have devices of their own, and records tell which, and what a run took."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbcloud import cli
from nbcloud.clusters import local, process
from tests.integration.notebooks import RunningNotebook, Shown, running_notebook

LOOK = "import os, subprocess, sys\nprint(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"


@pytest.fixture
def gpu_notebook(nbcloud_dirs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNotebook]:
    """A notebook whose cluster has one worker, which has two GPUs as far as Dask knows."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    info = local.up(workers=1, threads=2, idle_timeout=600, resources={"GPU": 2})
    with running_notebook() as running:
        yield running
    local.down(info)
    assert process.members(None, info.id) == []


def test_sessions_see_devices_of_their_own_and_the_record_has_them(
    gpu_notebook: RunningNotebook, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = [gpu_notebook.run(f"%%cloud -s {name} --gpus 1\n{LOOK}").text() for name in "ab"]
    assert sorted(seen) == ["'0'\n", "'1'\n"]
    child = "subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"CUDA_VISIBLE_DEVICES\"])'])"
    assert gpu_notebook.run(f"%%cloud -s a\nprint(end='', flush=True)\n_ = {child}").text().strip() in seen[0]
    assert gpu_notebook.run(f"%%cloud\n{LOOK}").text() == "''\n"
    assert "was started with 1" in gpu_notebook.run("%%cloud -s a --gpus 2\n1").traceback
    assert "was started without" in gpu_notebook.run("%%cloud --gpus 1\n1").traceback
    gpu_notebook.run("%cloud reset a\n%cloud reset b")
    assert gpu_notebook.run(f"%%cloud --fresh --gpus 2\n{LOOK}").text() == "'0,1'\n"
    gpu_notebook.run("%cloud runs")  # the record is written behind the cell's back
    assert cli.main(["runs", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert runs[0]["resources"]["gpus"] == 2
    assert runs[0]["resources"]["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_what_is_taken_is_waited_for_and_what_is_not_there_is_refused(gpu_notebook: RunningNotebook) -> None:
    shown = gpu_notebook.run("%%cloud --fresh --gpus 3\n1")
    assert "No worker of this cluster has 3 GPUs: the largest has 2 GPUs." in shown.traceback
    assert "%cloud up PROFILE" in shown.traceback
    gpu_notebook.run("from nbcloud.jupyter import progress\nprogress._QUIET_SECONDS = 0")
    gpu_notebook.run("%%cloud -s a --gpus 2\n1")
    said: list[str] = []

    def is_waiting(shown: object) -> bool:
        said[:] = [
            str(content["data"].get("text/plain"))
            for kind in ("display_data", "update_display_data")
            for content in shown.of_type(kind)  # type: ignore[attr-defined]
        ]
        if not any(
            "1 GPU is taken on every worker (held by session a; to end it: %cloud reset a)" in text
            for text in said
        ):
            return False
        gpu_notebook.interrupt()
        return True

    assert gpu_notebook.run("%%cloud -s b --gpus 1\n1", meanwhile=is_waiting).error == "KeyboardInterrupt"


def test_an_interrupted_wait_leaves_nothing_in_the_queue(gpu_notebook: RunningNotebook) -> None:
    gpu_notebook.run("from nbcloud.jupyter import progress\nprogress._QUIET_SECONDS = 0")
    gpu_notebook.run("%%cloud -s a --gpus 2\n1")

    def is_waiting(shown: Shown) -> bool:
        kinds = ("display_data", "update_display_data")
        texts = [str(c["data"].get("text/plain")) for kind in kinds for c in shown.of_type(kind)]
        waits = any("waiting in the queue" in text for text in texts)
        if waits:
            gpu_notebook.interrupt()
        return waits

    for options in ("-s b --gpus 1", "-s c --gpus 1 --workers 2", "--fresh --gpus 1"):
        shown = gpu_notebook.run(f"%%cloud {options}\n1", meanwhile=is_waiting)
        assert shown.error == "KeyboardInterrupt"
        there = gpu_notebook.run(
            "[s['name'] for s in get_ipython().run_line_magic('cloud', 'status').data['sessions']]"
        )
        assert there.result == "['a']"
    assert "'a' has ended on the cluster 'local'" in gpu_notebook.run("%cloud reset a").result
    assert gpu_notebook.run(f"%%cloud -s d --gpus 2\n{LOOK}").text() == "'0,1'\n"


def test_any_session_of_the_cluster_can_be_ended_also_one_that_waits(gpu_notebook: RunningNotebook) -> None:
    with running_notebook() as other:
        other.run("from nbcloud.jupyter import progress\nprogress._QUIET_SECONDS = 0")
        assert other.run("%%cloud -s a --gpus 2\n1").error == ""
        said: list[str] = []

        def end_it(shown: Shown) -> bool:
            if not any("waiting in the queue" in str(c) for c in shown.of_type("display_data")):
                return False
            said.append(gpu_notebook.run("%cloud reset nobody").traceback)
            said.append(gpu_notebook.run("%cloud reset b -c local").result)
            return True

        refused = other.run("%%cloud -s b --gpus 1\n1", meanwhile=end_it)
        assert "The session 'b': it was reset." in refused.traceback
        assert "The cluster 'local' has no session 'nobody'; there are: a, b." in said[0]
        assert "'b' had not begun, and waits no more on 'local'" in said[1]
        assert "'a' has ended on the cluster 'local'" in gpu_notebook.run("%cloud reset a").result
        assert gpu_notebook.run(f"%%cloud --gpus 2\n{LOOK}").text() == "'0,1'\n"


def test_a_cluster_without_gpus_says_so(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud --fresh --gpus 1\n1")
    assert (
        "No worker of this cluster has a GPU. Start a cluster with a profile that has gpus" in shown.traceback
    )


def test_what_a_run_takes_is_on_record(notebook: RunningNotebook, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    assert notebook.run(f"%%cloud --name busy\n{code}").error == ""
    assert notebook.run("%%cloud --name short\n1").error == ""
    notebook.run("%cloud runs")
    assert cli.main(["runs", "--json"]) == 0
    used = {run["name"]: run["used"] for run in json.loads(capsys.readouterr().out)}
    assert used["busy"]["usage"]["samples"] >= 1
    assert used["busy"]["usage"]["cpus"]["max"] > 0.05  # others may want the processor, too
    assert used["busy"]["usage"]["memory"]["max"] > 2**24
    assert "usage" not in used["short"]


def test_what_a_run_takes_is_shown_while_it_runs(
    notebook: RunningNotebook, wait_until: Callable[..., Any]
) -> None:
    assert notebook.run("%%cloud --bg --name busy\nwhile True: pass").error == ""

    def uses() -> list[dict[str, float]]:
        status = ast.literal_eval(notebook.run("%cloud status --json").result)
        return [each for run in status["runs"] for each in run["uses"]]

    wait_until(lambda: uses() and uses()[0]["cpus"] > 0.3, what="usage of the run")
    assert uses()[0]["memory"] > 2**24
    assert "CPUs, " in notebook.run("%cloud status").result
    notebook.run("%cloud cancel busy")

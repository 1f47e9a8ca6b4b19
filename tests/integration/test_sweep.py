"""Sweeps: each member once, whatever fails or is killed; and the table of what they came to."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import nbcloud
from nbcloud.dispatch.links import close_links
from nbcloud.errors import NbcloudError, UsageError
from nbcloud.workflows.claims import claimed
from nbcloud.workflows.sweep.folder import Sweep
from nbcloud.workflows.sweep.results import Results

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
]

TRAIN = """
import nbcloud, time
time.sleep(wait)
if seed == 2:
    raise ValueError("a bad seed")
nbcloud.log_metric("loss", rate * 10 + seed)
nbcloud.record("note", f"{name}-{seed}")
"""


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that logs a metric, and fails for one seed."""
    defaults = nbformat.v4.new_code_cell(
        "rate = 0.1\nseed = 0\nname = 'a'\nwait = 0.0", metadata={"tags": ["parameters"]}
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": kernel}, cells=[defaults, nbformat.v4.new_code_cell(TRAIN)]
    )
    path = tmp_path / "train.ipynb"
    nbformat.write(made, path)
    return path


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nbcloud", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def started(notebook: Path, out: Path, grid: str, wait: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own, which leads its group."""
    command = [sys.executable, "-m", "nbcloud", "sweep", str(notebook), "-g", grid, "-p", "wait", wait]
    return subprocess.Popen(
        [*command, "-o", str(out)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_member_that_fails_does_not_stop_the_others(notebook: Path, tmp_path: Path):
    found = nbcloud.sweep(notebook, {"rate": [0.1, 0.2], "seed": range(3)}, tmp_path / "out")
    assert found.counts() == {"done": 4, "failed": 2}
    assert [row["loss"] for row in found.rows] == [1.0, 2.0, None, 2.0, 3.0, None]
    assert [row["note"] for row in found.rows] == ["a-0", "a-1", None] * 2
    assert found.rows[2]["error"] == "ValueError: a bad seed"
    assert found.best("loss")["member"] == 0
    assert found.best("loss", "max")["member"] == 4
    assert [row["loss"] for row in found.ranked("loss", "max")] == [3.0, 2.0, 2.0, 1.0, None, None]
    assert found.frame().shape == (6, len(found.columns))


def test_wrong_parameters_are_refused_before_anything_runs(notebook: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="Did you mean 'rate'"):
        nbcloud.sweep(notebook, {"rat": [1]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_limits_that_are_none_are_refused_before_the_folder_is_made(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    for option, value, said in [
        ("--parallel", "0", "at least 1"),
        ("--retries", "-1", "must be at least 0"),
        ("--until", "loss <", "can't be read"),
    ]:
        told = shell("sweep", str(notebook), "-g", "seed=0:2", "-o", str(out), option, value)
        assert told.returncode == 2, told.stderr
        assert said in told.stderr
    with pytest.raises(UsageError, match="at least 1"):
        nbcloud.sweep(notebook, {"seed": [0]}, out, parallel=-1)
    assert not out.exists()


def test_in_a_shell(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = [
        "sweep",
        str(notebook),
        "-g",
        "rate=0.1,0.2",
        "-g",
        "seed=0:3",
        "-p",
        "name",
        "7",
        "-o",
        str(out),
        "--experiment",
        "rates",
    ]
    dry = shell(*words, "--dry-run")
    assert "6 members; nothing was run." in dry.stdout
    twice = shell(*words, "-g", "name=8,9")
    assert (twice.returncode, "name is given twice" in twice.stderr) == (2, True)
    assert not out.exists()
    told = shell(*words)
    assert told.returncode == 1  # some failed
    assert "4 done, 2 failed" in told.stdout
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["note"] for row in rows][:2] == ["7-0", "7-1"]
    assert '<img alt="loss over rate"' in (out / "results.html").read_text()
    again = shell(*words)
    assert again.returncode == 2
    assert "6 members already; 6 have ended" in again.stderr
    failed = shell("sweep", "-o", str(out), "--failed")
    assert (failed.returncode, f"-o {out} --resume --failed" in failed.stderr) == (2, True)
    nowhere = shell("results", str(out), "-o", str(tmp_path / "missing" / "table.csv"))
    assert (nowhere.returncode, "Type: mkdir -p" in nowhere.stderr) == (2, True)
    listed = json.loads(shell("results", str(out), "--lowest", "loss", "--json").stdout)
    assert (listed[0]["loss"], len(listed)) == (1.0, 6)
    (experiment,) = json.loads(shell("experiments", "--json").stdout)
    assert (experiment["name"], experiment["runs"]) == ("rates", 6)


def test_a_killed_sweep_is_gone_on_with_each_member_once(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    client = started(notebook, out, "seed=10:22", wait="0.4")
    deadline = time.monotonic() + 60
    while not (out / "sweep.json").exists() or len(Sweep.open(out).left()) > 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    sweep = Sweep.open(out)
    left = sweep.left()
    assert 0 < len(left) < 12
    before = {member.number: member.outcome.run for member in sweep.members if member not in left}
    told = shell("sweep", "-o", str(out), "--resume")
    assert told.returncode == 0, told.stderr
    rows = Results(sweep).rows
    assert [row["loss"] for row in rows] == [1.0 + seed for seed in range(10, 22)]
    after = {row["member"]: row["run"] for row in rows}
    assert {number: after[number] for number in before} == before  # what had ended did not run again


def test_ctrl_c_stops_all_members_and_none_of_them_counts_as_done(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    client = started(notebook, out, "seed=10:16", wait="2.0")
    deadline = time.monotonic() + 60
    while not (out / "0000.ipynb").exists() or '"running"' not in (out / "0000.ipynb").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.send_signal(signal.SIGINT)
    told = client.communicate(timeout=60)[0]
    assert client.returncode == 130
    assert f"To go on with it: nbcloud sweep -o {out} --resume" in told
    rows = Results(Sweep.open(out)).rows
    assert all((row.get("loss") is not None) == (row["state"] == "done") for row in rows)
    assert {row["state"] for row in rows} != {"done"}
    assert shell("sweep", "-o", str(out), "--resume").returncode == 0
    assert [row["loss"] for row in Results(Sweep.open(out)).rows] == [1.0 + seed for seed in range(10, 16)]


def test_a_member_that_takes_too_long_has_failed_and_the_others_go_on(notebook: Path, tmp_path: Path):
    found = nbcloud.sweep(notebook, {"wait": [0.0, 60.0, 0.1]}, tmp_path / "out", execution_timeout=3)
    assert [row["state"] for row in found.rows] == ["done", "failed", "done"]
    assert "timed out" in found.rows[1]["error"]


def test_a_member_whose_kernel_is_lost_says_so_and_runs_again(notebook: Path, tmp_path: Path):
    once = tmp_path / "once"
    code = f"import os, pathlib\nif not pathlib.Path({str(once)!r}).exists():\n"
    code += f"    pathlib.Path({str(once)!r}).touch()\n    os._exit(7)\n"
    made = nbformat.read(notebook, 4)
    made.cells.insert(1, nbformat.v4.new_code_cell(code))
    nbformat.write(made, notebook)
    out = tmp_path / "out"
    found = nbcloud.sweep(notebook, {"seed": [1]}, out)
    assert found.rows[0]["state"] == "lost"
    assert "exit code 7" in found.rows[0]["error"]
    again = nbcloud.sweep(notebook, {}, out, resume=True)
    assert [row["state"] for row in again.rows] == ["done"]


def test_a_cluster_that_is_not_there_is_told_once(notebook: Path, tmp_path: Path):
    with pytest.raises(NbcloudError, match="nowhere"):
        nbcloud.sweep(notebook, {"seed": [1, 3]}, tmp_path / "out", cluster="nowhere", parallel=2)
    assert nbcloud.sweep(notebook, {}, tmp_path / "out", resume=True).counts() == {"done": 2}


def test_a_sweep_of_which_nothing_has_run_is_begun_anew(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    refused = shell("sweep", str(notebook), "-g", "seed=4:6", "-o", str(out), "-c", "nowhere")
    assert "No cluster named 'nowhere'" in refused.stderr
    assert shell("sweep", str(notebook), "-g", "seed=6:8", "-o", str(out)).returncode == 0
    again = shell("sweep", str(notebook), "-g", "seed=6:8", "-o", str(out))
    assert "holds a sweep of 2 members already; 2 have ended" in again.stderr
    assert [row["seed"] for row in Results(Sweep.open(out)).rows] == [6, 7]


def test_a_sweep_that_runs_is_not_gone_on_with_by_another_process(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    client = started(notebook, out, "seed=10:12", wait="10.0")
    deadline = time.monotonic() + 60
    while not (out / "0000.ipynb").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    told = shell("sweep", "-o", str(out), "--resume")
    assert told.returncode == 2
    assert f"Another process is writing {out} at this moment." in told.stderr
    assert "To go on with it" not in client.communicate(timeout=60)[0]
    assert Results(Sweep.open(out)).counts() == {"done": 2}


def test_a_sweep_that_is_refused_changes_nothing_of_the_one_that_begins(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    begun = Sweep.begin(notebook, out, [{"seed": 0}, {"seed": 1}])  # and no member has an output yet
    before = (out / "sweep.json").read_text()
    with claimed(str(out)):
        told = shell("sweep", str(notebook), "-g", "seed=4:7", "-o", str(out))
        assert f"Another process is writing {out} at this moment." in told.stderr
        for members in ({"seed": [4, 5, 6]}, [{"seed": 4}]):
            with pytest.raises(UsageError, match="Another process is writing"):
                nbcloud.sweep(notebook, members, out)
    assert (out / "sweep.json").read_text() == before
    assert [each.name for each in out.iterdir()] == ["sweep.json"]
    assert not any(each.output.exists() for each in begun.members)


def test_another_notebook_is_no_part_of_a_sweep(notebook: Path, tmp_path: Path):
    nbcloud.sweep(notebook, {"seed": [1]}, tmp_path / "out")
    notebook.write_text(notebook.read_text().replace("a bad seed", "worse"))
    with pytest.raises(UsageError, match="has changed since the sweep"):
        nbcloud.sweep(notebook, {"seed": [1]}, tmp_path / "out", resume=True)

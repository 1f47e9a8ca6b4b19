"""Sweeps whose members are chosen as they go: at random, by a function, by Optuna; and what stops members."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import optuna
import pandas
import pytest

import nbcloud
from nbcloud.dispatch.links import close_links
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.workflows.sweep.folder import Sweep
from nbcloud.workflows.sweep.results import Results

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
]

TRAIN = """
import math, nbcloud, time
for step in range(steps):
    nbcloud.log_metric("loss", (math.log10(rate) + 2) ** 2 + 1 / (step + 1), step=step)
    time.sleep(wait)
"""


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook that logs a metric in steps, which is best for a rate of 0.01."""
    code = "rate = 0.1\nsteps = 1\nwait = 0.0\nlayers = [1]"
    defaults = nbformat.v4.new_code_cell(code, metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    slow = nbformat.v4.new_code_cell("print('slow')", metadata={"tags": ["slow"]})
    cells = [defaults, slow, nbformat.v4.new_code_cell(TRAIN)]
    path = tmp_path / "train.ipynb"
    nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": kernel}, cells=cells), path)
    return path


def test_members_are_drawn_from_distributions(notebook: Path, tmp_path: Path):
    found = nbcloud.sweep(
        notebook, {"rate": "loguniform:1e-4:1", "layers": [[8], [8, 8]]}, tmp_path / "out", random=4, seed=1
    )
    assert found.counts() == {"done": 4}
    assert all(1e-4 <= row["rate"] <= 1 and row["layers"] in ([8], [8, 8]) for row in found.rows)
    assert [row["loss"] for row in found.rows] == [
        pytest.approx((math.log10(row["rate"]) + 2) ** 2 + 1) for row in found.rows
    ]


def test_a_function_chooses_by_what_came_before(notebook: Path, tmp_path: Path):
    seen = []

    def halve(rows: list[dict[str, object]]) -> dict[str, float] | None:
        seen.append([row.get("loss") for row in rows])
        return None if len(rows) == 3 else {"rate": 0.1 / 2 ** len(rows)}

    found = nbcloud.sweep(notebook, halve, tmp_path / "out", parallel=1)
    assert [row["rate"] for row in found.rows] == [0.1, 0.05, 0.025]
    losses = [row["loss"] for row in found.rows]
    assert seen == [[], losses[:1], losses[:2], losses]
    with pytest.raises(UsageError, match="no parameter 'ratte'"):
        nbcloud.sweep(notebook, lambda _: {"ratte": 1}, tmp_path / "other")


def test_a_study_of_ones_own_learns_every_member_once(notebook: Path, tmp_path: Path):
    study = optuna.create_study(
        direction="minimize",
        storage=f"sqlite:///{tmp_path / 'study.db'}",
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    given = {"rate": "loguniform:1e-4:1", "layers": [[8], [8, 8]], "steps": [1]}
    found = nbcloud.sweep(notebook, given, tmp_path / "out", trials=5, metric="loss", study=study)
    assert found.counts() == {"done": 5}
    told = [trial.value for trial in study.trials]
    assert sorted(told) == sorted(row["loss"] for row in found.rows)
    again = nbcloud.sweep(notebook, {}, tmp_path / "out", resume=True, study=study)
    assert again.rows == found.rows
    assert [trial.value for trial in study.trials] == told
    fresh = optuna.create_study(direction="minimize")
    nbcloud.sweep(notebook, {}, tmp_path / "out", resume=True, study=fresh)
    assert fresh.best_params["rate"] == found.best("loss")["rate"]
    assert fresh.best_params["layers"] == json.dumps(found.best("loss")["layers"])


def test_in_a_shell_a_killed_search_is_gone_on_with(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nbcloud", "sweep"]
    words = [str(notebook), "-g", "rate=loguniform:1e-4:1", "-p", "wait", "0.4", "-o", str(out)]
    client = subprocess.Popen(
        [*command, *words, "--trials", "7", "--lowest", "loss"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (out / "sweep.json").exists() or len(Sweep.open(out).members) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    before = [member.parameters for member in Sweep.open(out).members]
    assert len(before) < 7
    again = subprocess.run(
        [*command, "-o", str(out), "--resume"], capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    sweep = Sweep.open(out)
    assert [member.parameters for member in sweep.members[: len(before)]] == before
    rows = Results(sweep).rows
    assert [row["state"] for row in rows] == ["done"] * 7
    assert len({row["run"] for row in rows}) == 7


def test_a_search_that_is_over_goes_on_when_it_is_to_have_more_members(notebook: Path, tmp_path: Path):
    out = str(tmp_path / "out")
    command = [sys.executable, "-m", "nbcloud", "sweep", "-o", out]

    def tell(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, check=False)

    begun = tell(str(notebook), "-g", "rate=loguniform:1e-4:1", "--trials", "2", "--lowest", "loss")
    assert begun.returncode == 0, begun.stderr
    first = [row["run"] for row in Results(Sweep.open(tmp_path / "out")).rows]
    assert tell("--resume", "--trials", "4").returncode == 0
    rows = Results(Sweep.open(tmp_path / "out")).rows
    assert [row["state"] for row in rows] == ["done"] * 4
    assert [row["run"] for row in rows[:2]] == first
    for words, said in [
        (["--trials", "1"], "has 4 members already"),
        (["--random", "5"], "--random counts when a sweep is begun"),
        (["--prune"], "--prune counts when a sweep is begun"),
    ]:
        refused = tell("--resume", *words)
        assert refused.returncode == 2
        assert said in refused.stderr


def test_a_search_prunes_what_is_behind(notebook: Path, tmp_path: Path):
    class Second(optuna.pruners.BasePruner):
        """Gives up every other member as soon as it has logged something."""

        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return bool(trial.number % 2 and trial.intermediate_values)

    study = optuna.create_study(pruner=Second())
    given = {"rate": "loguniform:1e-4:1", "steps": [50], "wait": [0.1]}
    found = nbcloud.sweep(
        notebook, given, tmp_path / "out", trials=4, metric="loss", study=study, prune=True, parallel=2
    )
    assert [row["state"] for row in found.rows] == ["done", "pruned", "done", "pruned"]
    assert "its loss was behind" in found.rows[1]["error"]
    states = [trial.state.name for trial in study.trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert Sweep.open(tmp_path / "out").left() == []


def test_the_rest_is_stopped_when_a_member_is_good_enough(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    rates = {"rate": [0.5, 0.01, 0.4, 0.3, 0.2]}
    found = nbcloud.sweep(notebook, rates, out, until="metrics.loss < 1.1", parallel=1)
    assert [row["state"] for row in found.rows] == ["done", "done", "new", "new", "new"]
    assert nbcloud.sweep(notebook, {}, out, resume=True).counts() == {"done": 5}
    with pytest.raises(UsageError, match="can't be read"):
        nbcloud.sweep(notebook, rates, tmp_path / "other", until="loss <")


def test_a_member_that_takes_too_long_is_stopped(notebook: Path, tmp_path: Path):
    given = {"steps": [1, 600], "wait": [0.1]}
    found = nbcloud.sweep(notebook, given, tmp_path / "out", member_timeout="3s")
    assert [row["state"] for row in found.rows] == ["done", "failed"]
    assert found.rows[1]["error"] == "RunTimeout: It took longer than 3 s."


def test_what_a_member_waits_for_a_worker_is_not_its_time(notebook: Path, tmp_path: Path):
    given = {"steps": [40], "wait": [0.1], "rate": [0.1, 0.2, 0.3]}
    # Each takes all of a worker, and there are two: the third has to wait for four seconds.
    found = nbcloud.sweep(notebook, given, tmp_path / "out", cpus=2, parallel=3, member_timeout="7s")
    assert [row["state"] for row in found.rows] == ["done"] * 3


def test_a_metric_that_nobody_logs_ends_the_search(notebook: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="3 members have logged no metric 'los' to search by, but: loss"):
        nbcloud.sweep(notebook, {"rate": "uniform:0.1:1"}, tmp_path / "out", trials=3, metric="los")


def test_the_table_is_written_as_parquet(notebook: Path, tmp_path: Path):
    members = [{"layers": [1], "rate": 0.1}, {"layers": [1, 2], "rate": 0.01}]
    found = nbcloud.sweep(notebook, members, tmp_path / "out")
    found.write(tmp_path / "table.parquet")
    frame = pandas.read_parquet(tmp_path / "table.parquet")
    assert [json.loads(each) for each in frame["layers"]] == [[1], [1, 2]]
    assert list(frame["loss"]) == [row["loss"] for row in found.rows]


def test_a_sweep_is_gone_on_with_as_it_was_begun(notebook: Path, tmp_path: Path):
    out = tmp_path / "out"
    given = {"steps": [1, 600], "wait": [0.1]}
    options = {"skip_tags": ["slow"], "experiment": "limits", "parallel": 1}
    nbcloud.sweep(notebook, given, out, until="metrics.loss < 100", member_timeout=2, **options)
    assert [row["state"] for row in Results(Sweep.open(out)).rows] == ["done", "new"]
    found = nbcloud.sweep(notebook, {}, out, resume=True)
    assert found.rows[1]["error"] == "RunTimeout: It took longer than 2 s."
    with open_store() as store:
        assert {store.get(row["run"]).experiment for row in found.rows} == {"limits"}
    assert Sweep.open(out).options == {**options, "member_timeout": 2}

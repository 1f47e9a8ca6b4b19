"""Runs go to a real MLflow, all of them, each value once, whatever dies on the way."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from nbcloud import cli
from nbcloud.runs.entries import line
from nbcloud.runs.mirror.facts import milliseconds, name_of, point
from nbcloud.runs.mirror.feed import Feed, shown
from nbcloud.runs.mirror.process import alone
from nbcloud.runs.owners import process_mark
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store

pytest.importorskip("mlflow", reason="needs the extra mlflow")

TRAIN = """
import nbcloud, pathlib
nbcloud.set_experiment("digits")
with nbcloud.start_run("train", tags={"team": "vision", "odd key*": "x"}):
    nbcloud.log_params({"lr": 0.1, "model": "resnet", "sizes": [1, 2], "long": "x" * 9000})
    for step in range(2500):
        nbcloud.log_metric("loss", 1 / (step + 1), step=step)
    nbcloud.log_metrics({"nan": float("nan"), "inf": float("-inf"), "a@b": 1})
    with nbcloud.start_run("fold"):
        nbcloud.log_metric("score", 0.5)
    pathlib.Path("w.bin").write_bytes(b"weights")
    nbcloud.log_artifact("w.bin", "deep/w.bin")
    nbcloud.log_dataset("w.bin", "data")
    nbcloud.record("answer", {"best": 0.01})
"""
KILLED = """
import os, signal, sys
from nbcloud.runs.mirror import process
from nbcloud.runs.store import Store

class Deadly:
    def __init__(self, client, at, behind):
        self.client, self.left, self.behind = client, at, behind

    def __getattr__(self, name):
        def call(*words, **options):
            self.left -= 1
            if self.left == 0 and not self.behind:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = getattr(self.client, name)(*words, **options)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer
        return call

target = os.environ["NBCLOUD_TRACKING"]
process.connect(target, "")
attempts = 0
while True:
    attempts += 1
    child = os.fork()
    if child == 0:
        connect = process.connect
        process.connect = lambda *words: Deadly(connect(*words), attempts // 2 + 1, attempts % 2)
        with Store() as store:
            process.Mirror(store, target).catch_up(refused=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    assert attempts < 300
print(attempts)
"""


@pytest.fixture
def target(mlflow_place, monkeypatch, start_python):
    """Where runs are mirrored to, for what the test runs."""
    monkeypatch.setenv("NBCLOUD_TRACKING", f"mlflow:{mlflow_place}")
    return mlflow_place


@pytest.fixture
def store(target):
    with Store() as opened:
        yield opened


def nbcloud(*words):
    return subprocess.run(
        [sys.executable, "-m", "nbcloud", *words], capture_output=True, text=True, timeout=120
    )


def client(target):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=target)


def there(target, store):
    """The runs of this store at the target, by their ids here."""
    mlflow = client(target)
    experiments = [each.experiment_id for each in mlflow.search_experiments()]
    ours = {run.id for run in store.search(limit=1000)} | {run.id for run in store.search(deleted=True)}
    found = [run for run in mlflow.search_runs(experiments) if run.data.tags.get("nbcloud.run") in ours]
    by_id = {run.data.tags["nbcloud.run"]: run for run in found}
    assert len(by_id) == len(found), "a run is there twice"
    return by_id


def same_values(target, store, run, mirrored):
    mlflow = client(target)
    for key in store.tracked([run.id])[run.id].metrics:
        came = mlflow.get_metric_history(mirrored.info.run_id, name_of(key))
        assert Counter(point(each.step, each.timestamp, each.value) for each in came) == Counter(
            point(each.step, milliseconds(each.time), each.value) for each in store.history(run.id, key)
        )


def check_train(target, store):
    found = there(target, store)
    train, fold = (store.search(name=name)[0] for name in ("train", "fold"))
    assert set(found) == {train.id, fold.id}
    there_train, there_fold = found[train.id], found[fold.id]
    for run in (train, fold):
        same_values(target, store, run, found[run.id])
    assert (there_train.info.run_name, there_train.info.status) == ("train", "FINISHED")
    assert there_train.info.end_time == milliseconds(train.finished)
    assert there_train.data.params | {"long": ""} == {
        "lr": "0.1",
        "model": "resnet",
        "sizes": "[1, 2]",
        "long": "",
    }
    tags = there_train.data.tags
    assert (tags["team"], tags["odd key_"], tags["nbcloud.state"]) == ("vision", "x", "done")
    assert there_fold.data.tags["mlflow.parentRunId"] == there_train.info.run_id
    mlflow = client(target)
    assert mlflow.get_experiment(there_train.info.experiment_id).name == "digits"
    (dataset,) = there_train.inputs.dataset_inputs
    assert dataset.dataset.name == "data"
    files = [
        each.path
        for folder in ("deep", "nbcloud/records")
        for each in mlflow.list_artifacts(there_train.info.run_id, folder)
    ]
    assert files == ["deep/w.bin", "nbcloud/records/answer.json"]


def test_what_a_script_logs_is_there_soon_without_its_doing(target, store, start_python, wait_until):
    assert start_python(TRAIN).wait() == 0
    wait_until(lambda: (found := Feed(store, target).standing()) and not found.behind, what="the mirror")
    check_train(target, store)
    told = nbcloud("mirror", "--status")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"2 runs of this store are at {target}; begun ")
    assert "Nothing is behind." in told.stdout


def test_a_mirror_that_is_killed_at_each_step_loses_and_doubles_nothing(
    target, store, start_python, monkeypatch
):
    monkeypatch.delenv("NBCLOUD_TRACKING")
    assert start_python(TRAIN).wait() == 0
    monkeypatch.setenv("NBCLOUD_TRACKING", f"mlflow:{target}")
    Feed(store, target).enlist(past=True)
    process = start_python(KILLED, stdout=subprocess.PIPE, text=True)
    attempts = int(process.communicate()[0])
    assert attempts > 10
    check_train(target, store)


def test_changes_go_there_too(target, store):
    feed = Feed(store, target)
    feed.enlist()

    def entries(number, *entries):
        store.append(run.id, line(number, 1.5, {"run": "", "entries": list(entries)}))

    ours = {"client": process_mark()}
    run = store.begin(Run(name="a", code="1 + 1", state=RunState.RUNNING, started=1000.0, extra=ours))
    entries(1, ["param", "lr", 0.1], ["metric", "loss", 0.5, 1, 1.5])
    assert nbcloud("mirror").returncode == 0
    found = there(target, store)[run.id]
    assert (found.info.status, found.data.params) == ("RUNNING", {"lr": "0.1"})
    assert found.data.tags["mlflow.note.content"] == "```python\n1 + 1\n```"
    entries(3, ["metric", "loss", 0.25, 3, 3.5], ["param", "lr", 0.2])
    assert nbcloud("mirror").returncode == 0
    entries(2, ["metric", "loss", 0.3, 2, 2.5], ["experiment", "moved"])  # late, as after a crash
    store.finish(run.changed(state="cancelled", finished=1001.0))
    assert nbcloud("mirror").returncode == 0
    found = there(target, store)[run.id]
    assert (found.info.status, found.info.end_time) == ("KILLED", 1_001_000)
    assert client(target).get_experiment(found.info.experiment_id).name == "moved"
    same_values(target, store, store.get(run.id), found)
    store.update(run.id, deleted=5.0)
    assert nbcloud("mirror").returncode == 0
    assert there(target, store) == {}
    store.update(run.id, deleted=None)
    assert nbcloud("mirror").returncode == 0
    assert list(there(target, store)) == [run.id]


def test_what_its_cells_said_is_there_when_a_run_has_ended(target, store, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET_TOKEN", "x9Kq2vT7pLw4")
    Feed(store, target).enlist()
    mlflow = client(target)

    def files(run):
        mirrored = there(target, store)[run.id].info.run_id
        found = {each.path for each in mlflow.list_artifacts(mirrored, "nbcloud")}
        with tempfile.TemporaryDirectory() as folder:
            return {
                path.removeprefix("nbcloud/"): Path(
                    mlflow.download_artifacts(mirrored, path, folder)
                ).read_text()
                for path in found
            }

    def said(run, text):
        content = {"name": "stdout", "text": text}
        message = {"n": 1, "time": 1.5, "msg_type": "stream", "content": content, "metadata": {}}
        store.append(run.id, json.dumps(message).encode() + b"\n")

    cell = store.begin(Run(code="print(1 + 1)", state=RunState.RUNNING, extra={"client": process_mark()}))
    said(cell, "2\n")
    assert nbcloud("mirror").returncode == 0
    assert files(cell) == {}
    store.finish(cell.changed(state="done", finished=1001.0))
    output = {"output": "out.ipynb", "cwd": str(tmp_path)}
    notebook = store.begin(Run(kind="notebook", state=RunState.RUNNING, extra=output))
    said(notebook, "from its cells\n")
    store.finish(notebook.changed(state="done", finished=1002.0))
    executed = {"metadata": {"papermill": {"run": notebook.id}}, "cells": [{"source": "x9Kq2vT7pLw4"}]}
    (tmp_path / "out.ipynb").write_text(json.dumps(executed))
    assert nbcloud("mirror").returncode == 0
    found = files(cell)
    assert found["output.txt"] == "2\n"
    (only,) = json.loads(found["run.ipynb"])["cells"]
    assert (only["source"], only["outputs"][0]["text"]) == ("print(1 + 1)", "2\n")
    found = files(notebook)
    assert found["output.txt"] == "from its cells\n"
    assert json.loads(found["run.ipynb"]) == {**executed, "cells": [{"source": "***"}]}
    executed["metadata"]["papermill"]["run"] = cell.id  # the next one has replaced it
    (tmp_path / "out.ipynb").write_text(json.dumps(executed))
    store.update(notebook.id, name="renamed")
    assert nbcloud("mirror").returncode == 0
    (only,) = json.loads(files(notebook)["run.ipynb"])["cells"]
    assert only["outputs"][0]["text"] == "from its cells\n"


EXPORT = """
import nbcloud, numpy
from sklearn.linear_model import LogisticRegression

nbcloud.set_experiment("digits")
rows = numpy.arange(20, dtype="float32").reshape(10, 2)
for seed in (1, 2):
    with nbcloud.start_run(f"train {seed}"):
        model = LogisticRegression(C=seed).fit(rows, numpy.arange(10) > 4)
        nbcloud.export(model, rows, "digits-MARK", metrics={"accuracy": 0.5})
nbcloud.export(LogisticRegression(C=3).fit(rows, numpy.arange(10) > 4), rows, "digits-MARK")
"""


def test_versions_are_registered_in_their_runs_and_aliases_follow(target, store, tmp_path, start_python):
    pytest.importorskip("skl2onnx", reason="needs the extra sklearn")
    name = f"digits-{tmp_path.name[-12:]}".replace("_", "-")  # a server's is that of all tests
    assert start_python(EXPORT.replace("digits-MARK", name)).wait() == 0
    assert nbcloud("mirror").returncode == 0
    mlflow = client(target)

    def versions():
        return {int(each.version): each for each in mlflow.search_model_versions(f"name = '{name}'")}

    def aliases():
        return {key: int(value) for key, value in mlflow.get_registered_model(name).aliases.items()}

    found = there(target, store)
    exports = sorted(run.id for run in store.search(filter="attributes.kind = 'export'"))
    origins = [store.search(name="train 1")[0].id, store.search(name="train 2")[0].id, exports[2]]
    assert [each.run_id for _, each in sorted(versions().items())] == [
        found[origin].info.run_id for origin in origins
    ]
    first = versions()[1]
    assert first.tags["nbcloud.model"] == f"models:/{name}/1"
    assert first.tags["nbcloud.metric.accuracy"] == "0.5"
    files = mlflow.list_artifacts(first.run_id, f"model/{name}-1")
    assert {"MLmodel", "model.onnx"} <= {Path(each.path).name for each in files}
    assert aliases() == {}
    assert nbcloud("models", "alias", f"{name}/1", "champion").returncode == 0
    assert nbcloud("mirror").returncode == 0
    assert aliases() == {"champion": 1}
    assert nbcloud("models", "alias", f"{name}/3", "champion").returncode == 0
    mlflow.set_registered_model_alias(name, "theirs", "1")
    assert nbcloud("mirror", "--all").returncode == 0
    assert aliases() == {"champion": 3, "theirs": 1}
    assert nbcloud("models", "unalias", name, "champion").returncode == 0
    assert nbcloud("mirror").returncode == 0
    assert aliases() == {"theirs": 1}
    assert sorted(versions()) == [1, 2, 3]

    def tags():
        known = versions()[2].tags
        return {key: known[key] for key in ("team", "license", "theirs", "nbcloud.stage") if key in known}

    for tag in ("team=vision", "license=MIT"):
        assert nbcloud("models", "tag", f"{name}/2", tag).returncode == 0
    assert nbcloud("models", "stage", f"{name}/2", "staging").returncode == 0
    mlflow.set_model_version_tag(name, "2", "theirs", "yes")
    assert nbcloud("mirror").returncode == 0
    assert tags() == {"team": "vision", "license": "MIT", "theirs": "yes", "nbcloud.stage": "staging"}
    assert nbcloud("models", "untag", f"{name}/2", "team").returncode == 0
    assert nbcloud("models", "stage", f"{name}/2", "none").returncode == 0
    assert nbcloud("mirror").returncode == 0
    assert tags() == {"license": "MIT", "theirs": "yes", "nbcloud.stage": "none"}


def test_a_run_that_is_not_taken_keeps_back_no_other(target, store):
    feed = Feed(store, target)
    feed.enlist()
    first, second = (store.begin(Run(name=name, state=RunState.RUNNING)) for name in "ab")
    assert nbcloud("mirror").returncode == 0
    client(target).delete_run(there(target, store)[first.id].info.run_id)
    for run in (first, second):
        store.append(
            run.id, line(1, 1.0, {"run": "", "entries": [["metric", "loss", 1.0, 1, 1.0], ["param", "p", 1]]})
        )
    told = nbcloud("mirror")
    assert told.returncode == 1
    assert first.id in told.stdout
    assert "1 run MLflow did not take" in told.stdout
    assert there(target, store)[second.id].data.params == {"p": "1"}


def test_a_server_that_is_away_is_told_and_caught_up_with(tmp_path, nbcloud_dirs, monkeypatch):
    monkeypatch.setenv("NBCLOUD_TRACKING", "mlflow:http://name:secret-word@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Store() as store:
        feed = Feed(store, shown(os.environ["NBCLOUD_TRACKING"]))
        feed.enlist()
        run = store.begin(Run(name="a"))
        told = nbcloud("mirror")
        assert told.returncode == 1
        assert "MLflow at http://127.0.0.1:9/ can't be reached" in told.stderr
        assert "All is on record here, and goes there later: nbcloud mirror" in told.stderr
        status = json.loads(nbcloud("mirror", "--status", "--json").stdout)
        assert (status["runs"], status["behind"]) == (0, 1)
        assert "refused" in status["trouble"]
        assert "secret-word" not in f"{told} {status}"
        monkeypatch.setenv("NBCLOUD_TRACKING", f"mlflow:{tmp_path}/mlruns")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        assert "0 runs of this store are at" in nbcloud("mirror").stdout  # from now on only
        assert nbcloud("mirror", "--all").returncode == 0
        assert list(there(str(tmp_path / "mlruns"), store)) == [run.id]
    assert b"secret-word" not in (Path(os.environ["NBCLOUD_DATA_DIR"]) / "runs.db").read_bytes()


def test_where_nothing_is_set(nbcloud_dirs, capsys, monkeypatch):
    assert cli.main(["mirror"]) == 2
    assert 'tracking = "mlflow:https://HOST"' in capsys.readouterr().err
    monkeypatch.setenv("NBCLOUD_TRACKING", "mlflow:mlruns")
    assert cli.main(["mirror"]) == 1
    assert "a folder whose place depends on where it is read" in capsys.readouterr().err
    for without in ("mlflow://host:5000", "mlflow:host:5000"):
        monkeypatch.setenv("NBCLOUD_TRACKING", without)
        assert cli.main(["mirror"]) == 1
        assert 'Write "mlflow:https://host:5000", or http.' in capsys.readouterr().err


def test_a_server_that_is_away_is_told_although_another_process_waits_for_it(nbcloud_dirs, monkeypatch):
    monkeypatch.setenv("NBCLOUD_TRACKING", "mlflow:http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = nbcloud("mirror")  # nothing is to be sent, and it is asked all the same
    assert told.returncode == 1
    assert "MLflow at http://127.0.0.1:9 can't be reached: [Errno 111] Connection refused." in told.stderr
    with Store() as store:
        store.begin(Run(name="a"))
        with alone(store.directory) as held:
            assert held
            told = nbcloud("mirror")
    assert told.returncode == 1
    assert "can't be reached" in told.stderr

"""Runs of a real MLflow come on record here, each once and whole, whatever dies on the way."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import psutil
import pytest

from nbcloud import cli
from nbcloud.runs.imports.importer import alone
from nbcloud.runs.mirror.facts import RUN_TAG, milliseconds, point
from nbcloud.runs.record import RunState
from nbcloud.runs.store import Store
from tests.unit.runs.mlflow_server import VARIABLE, mlflow_server

pytest.importorskip("mlflow", reason="needs the extra mlflow")

KILLED = """
import os, signal, sys
from pathlib import Path
from nbcloud.runs.imports.importer import Importer
from nbcloud.runs.imports.source import source_of
from nbcloud.runs.mirror.client import connect
from nbcloud.runs.store import Store

def deadly(left):
    def count(frame, event, argument):
        # Each step that leaves something on the disk.
        if event == "call" and frame.f_code.co_qualname in (
            "Store.begin", "Store.append", "Store.update", "Store.finish", "Artifacts.keep", "Store._compose"
        ):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return count

address, folder = source_of(sys.argv[1])
connect(address, "")
attempts = 0
while True:
    attempts += 1
    child = os.fork()
    if child == 0:
        with Store() as store:
            importer = Importer(store, connect(address, ""), address, folder)
            (experiment,) = importer.experiments(["digits"])
            sys.setprofile(deadly([attempts // 5 + 1]))
            importer.bring(experiment)
            sys.setprofile(None)
            assert not importer.troubles, importer.troubles
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    assert attempts < 300
print(attempts)
"""


@pytest.fixture
def source(mlflow_place):
    """Where MLflow has its runs, and its client there."""
    mlflow = client(mlflow_place)
    yield mlflow_place, mlflow
    if mlflow_place.startswith("http"):
        for experiment in mlflow.search_experiments(filter_string="name != 'Default'"):
            # Renamed, because what is deleted keeps its name.
            mlflow.rename_experiment(experiment.experiment_id, f"gone {experiment.experiment_id}")
            mlflow.delete_experiment(experiment.experiment_id)


@pytest.fixture
def store(source):
    with Store() as opened:
        yield opened


def client(where):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=where)


def fill(mlflow, tmp_path):
    """Two experiments with runs of all kinds; returns what one of them is called."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    digits = mlflow.create_experiment("digits")
    train = mlflow.create_run(digits, run_name="train", start_time=1_700_000_000_123).info.run_id
    texts = {"lr": "0.1", "depth": "3", "opt": "adam", "flag": "True", "padded": "0.10"}
    values = [Metric("loss", 1 / (step + 1), 1_700_000_001_000 + step, step) for step in range(900)]
    mlflow.log_batch(train, metrics=values, params=[Param(*each) for each in texts.items()])
    for key, value in {"nan": math.nan, "up": math.inf, "down": -math.inf}.items():
        mlflow.log_metric(train, key, value, timestamp=1_700_000_002_000, step=-1)
    mlflow.set_tag(train, "team", "vision")
    inputs = [
        DatasetInput(
            Dataset("data", digest, "local", '{"uri": "data.csv"}', None, '{"num_rows": 7}'),
            [InputTag("mlflow.data.context", context)],
        )
        for digest, context in (("abc", "training"), ("def", "test"))
    ]
    mlflow.log_inputs(train, inputs)
    (tmp_path / "w.bin").write_bytes(b"weights")
    mlflow.log_artifact(train, str(tmp_path / "w.bin"), "deep/er")
    mlflow.log_text(train, "a", "a.txt")
    fold = mlflow.create_run(digits, run_name="fold", tags={"mlflow.parentRunId": train}).info.run_id
    mlflow.log_metric(fold, "score", 0.5)
    mlflow.set_terminated(fold, "KILLED")
    mlflow.set_terminated(train, end_time=1_700_000_009_456)
    gone = mlflow.create_run(digits, run_name="gone").info.run_id
    mlflow.delete_run(gone)
    other = mlflow.create_run(mlflow.create_experiment("other"), run_name="other").info.run_id
    mlflow.set_terminated(other, "FAILED")
    return train


def check(store, mlflow, name):
    """What ``fill`` made is here, once."""
    train, fold = (store.search(name=each)[0] for each in ("train", "fold"))
    assert not store.search(name="gone")
    assert (train.kind, train.state, train.experiment) == ("imported", RunState.DONE, "digits")
    assert (train.started, train.finished) == (1_700_000_000.123, 1_700_000_009.456)
    assert (fold.state, fold.parent) == (RunState.CANCELLED, train.id)
    assert (train.tags["team"], train.tags["mlflow.run_id"]) == ("vision", name)
    tracked = store.tracked([train.id])[train.id]
    assert tracked.params == {"lr": 0.1, "depth": 3, "opt": "adam", "flag": "True", "padded": "0.10"}
    assert math.isnan(tracked.metrics.pop("nan"))
    assert tracked.metrics == {"loss": 1 / 900, "up": math.inf, "down": -math.inf}
    there = mlflow.get_metric_history(name, "loss")
    assert Counter(point(each.step, each.timestamp, each.value) for each in there) == Counter(
        point(each.step, milliseconds(each.time), each.value) for each in store.history(train.id, "loss")
    )
    assert [each.step for each in store.history(train.id, "nan")] == [-1]
    assert store.artifact(train.id, "deep/er/w.bin").read_bytes() == b"weights"
    assert store.artifact(train.id, "a.txt").read_bytes() == b"a"
    assert {name: (each["context"], each["rows"]) for name, each in tracked.datasets.items()} == {
        "data": ("training", 7),
        "data def": ("test", 7),
    }


def nbcloud(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "nbcloud", *words], capture_output=True, text=True, timeout=120, **options
    )


def imported(where, *words):
    """What the command says for programs."""
    told = nbcloud("import-mlflow", where, "--json", *words)
    assert told.returncode == 0, told
    found = json.loads(told.stdout)
    assert not found["troubles"]
    return {each.pop("experiment"): each for each in found["experiments"]}


def test_all_of_a_run_comes_and_once(source, store, tmp_path):
    where, mlflow = source
    name = fill(mlflow, tmp_path)
    told = imported(where, "--dry-run")
    assert (told["digits"]["new"], told["digits"]["files"], told["digits"]["bytes"]) == (2, 2, 8)
    assert store.search() == []
    told = imported(f"mlflow:{where}", "--experiment", "digits")
    assert (told["digits"]["new"], told["digits"]["values"], told["digits"]["files"]) == (2, 904, 2)
    assert set(told) == {"digits"}
    check(store, mlflow, name)
    before = {run.id: run for run in store.search()}
    told = imported(where)
    assert (told["digits"]["known"], told["digits"]["new"], told["digits"]["renewed"]) == (2, 0, 0)
    assert told["other"]["new"] == 1
    assert {run.id: run for run in store.search() if run.id in before} == before
    (other,) = store.search(name="other")
    assert other.state is RunState.FAILED


def test_records_of_imported_runs_are_whole_on_the_disk(source, store, tmp_path):
    where, mlflow = source
    name = fill(mlflow, tmp_path)
    imported(where)
    store.close()
    for path in store.directory.glob("runs.db*"):
        path.unlink()
    check(store, mlflow, name)


def test_a_run_that_goes_on_there_is_followed(source, store, tmp_path):
    where, mlflow = source
    name = mlflow.create_run(mlflow.create_experiment("digits"), run_name="train").info.run_id
    mlflow.log_metric(name, "loss", 0.5, step=1)
    mlflow.log_text(name, "first", "log.txt")
    assert imported(where)["digits"]["new"] == 1
    assert nbcloud("runs").returncode == 0  # which looks after runs that nobody keeps
    (run,) = store.search()
    assert (run.state, run.finished) == (RunState.RUNNING, None)
    assert imported(where)["digits"]["known"] == 1
    mlflow.log_metric(name, "loss", 0.25, step=2)
    mlflow.log_text(name, "other", "log.txt")  # as long as the first
    mlflow.log_param(name, "lr", 0.1)
    mlflow.set_tag(name, "team", "vision")
    mlflow.update_run(name, name="renamed")
    mlflow.set_terminated(name)
    told = imported(where)["digits"]
    assert (told["renewed"], told["values"], told["files"]) == (1, 1, 1)
    (ended,) = store.search()
    assert (ended.id, ended.state, ended.name) == (run.id, RunState.DONE, "renamed")
    assert ended.tags["team"] == "vision"
    assert [each.value for each in store.history(run.id, "loss")] == [0.5, 0.25]
    assert store.artifact(run.id, "log.txt").read_bytes() == b"other"
    assert imported(where)["digits"]["known"] == 1
    mlflow.log_metric(name, "late", 1.0)  # to a run that has ended
    assert imported(where)["digits"]["renewed"] == 1
    (again,) = store.search()
    assert again.id == run.id
    assert store.tracked([run.id])[run.id].metrics == {"loss": 0.25, "late": 1.0}
    mlflow.set_tag(name, "team", "speech")
    assert imported(where)["digits"]["known"] == 1
    assert store.get(run.id).tags["team"] == "speech"


def test_a_run_without_an_end_can_be_forgotten(source, store):
    where, mlflow = source
    mlflow.create_run(mlflow.create_experiment("digits"), run_name="zombie")
    imported(where)
    told = nbcloud("cancel", "zombie")
    assert "was imported from MLflow, where it has not ended" in told.stderr
    (run,) = store.search()
    assert nbcloud("delete", "zombie").returncode == 0
    assert imported(where)["digits"]["deleted"] == 1
    assert store.search() == []
    assert nbcloud("gc", "--older", "0").returncode == 0
    assert store.load(run.id) is None


def test_an_import_that_is_killed_at_each_step_loses_and_doubles_nothing(
    source, store, tmp_path, start_python
):
    where, mlflow = source
    name = fill(mlflow, tmp_path)
    process = start_python(KILLED, where, stdout=subprocess.PIPE, text=True)
    assert int(process.communicate()[0]) > 10
    check(store, mlflow, name)
    assert {run.name for run in store.search()} == {"train", "fold"}


def test_what_was_mirrored_from_here_is_not_imported_here(source, store, tmp_path, monkeypatch, start_python):
    where, mlflow = source
    monkeypatch.setenv("NBCLOUD_TRACKING", f"mlflow:{where}")
    program = "import nbcloud\nwith nbcloud.start_run('mine'): nbcloud.log_metric('loss', 0.5)\n"
    assert start_python(program).wait() == 0
    assert nbcloud("mirror", "--all").returncode == 0
    told = imported(where, "--experiment", "Default")
    assert told["Default"]["own"] == 1
    (mine,) = store.search()
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "colleague"))
    assert imported(where, "--experiment", "Default")["Default"]["new"] == 1
    with Store() as other:
        (theirs,) = other.search()
        assert (theirs.id, theirs.kind, theirs.finished) == (
            mine.id,
            "imported",
            milliseconds(mine.finished) / 1000,
        )
        assert other.tracked([mine.id])[mine.id].metrics == {"loss": 0.5}
    for run in mlflow.search_runs(["0"], f"tags.`{RUN_TAG}` = '{mine.id}'"):
        mlflow.delete_run(run.info.run_id)


def test_a_file_that_does_not_come_is_told_and_tried_again(tmp_path, nbcloud_dirs, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = client(str(tmp_path / "mlruns"))
    name = fill(mlflow, tmp_path)
    (artifacts,) = (tmp_path / "mlruns").glob(f"*/{name}/artifacts")
    (artifacts / "a.txt").unlink()
    (artifacts / "a.txt").symlink_to(artifacts / "b.txt")
    told = nbcloud("import-mlflow", str(tmp_path / "mlruns"))
    assert (told.returncode, told.stdout.count(f"{name}: Not all of its files came: ")) == (1, 1)
    with Store() as store:
        train = store.search(name="train")[0]
        assert train.state is RunState.DONE
        assert train.message.startswith("Not all of its files came: ")
        (artifacts / "b.txt").write_text("a")
        assert imported(str(tmp_path / "mlruns"))["digits"]["renewed"] == 1
        check(store, mlflow, name)
        assert not store.get(train.id).message


def test_a_folder_that_was_moved_has_its_files_and_no_others(tmp_path, nbcloud_dirs, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    name = fill(client(str(tmp_path / "mlruns")), tmp_path)
    shutil.move(tmp_path / "mlruns", tmp_path / "moved")
    (tmp_path / "secret").write_text("mine")
    (artifacts,) = (tmp_path / "moved").glob(f"*/{name}/artifacts")
    (artifacts / "lure.txt").symlink_to(tmp_path / "secret")
    (artifacts / "deep" / "lures").symlink_to(tmp_path)
    told = nbcloud("import-mlflow", str(tmp_path / "moved"))
    assert told.returncode == 1
    assert f"{name}: the name 'lure.txt' leads out of the run" in told.stdout or "'deep/lures'" in told.stdout
    with Store() as store:
        train = store.search(name="train")[0]
        assert sorted(store.tracked([train.id])[train.id].artifacts) == ["a.txt", "deep/er/w.bin"]


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Python that has a whole MLflow")
def test_a_server_that_dies_on_the_way_and_comes_back(tmp_path, nbcloud_dirs, monkeypatch, wait_until):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as address, Store() as store:
        mlflow = client(address)
        experiment = mlflow.create_experiment("digits")
        for number in range(40):
            run = mlflow.create_run(experiment, run_name=str(number))
            mlflow.log_metric(run.info.run_id, "loss", number)
            mlflow.set_terminated(run.info.run_id)
        command = [sys.executable, "-m", "nbcloud", "import-mlflow", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: len(store.search(state="done")) > 2, what="the first runs")
            children = psutil.Process().children(recursive=True)
            servers = [each for each in children if each.cwd() == str(tmp_path / "server")]
            for each in servers:
                each.send_signal(signal.SIGKILL)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 1
        assert f"MLflow at {address} can't be reached: " in said
        assert "runs came; the same command goes on from there." in said
        some = len(store.search(state="done", limit=100))
        assert 2 < some < 40
    with mlflow_server(tmp_path / "server") as address:
        told = imported(address)["digits"]
        assert told["new"] + told["renewed"] + told["known"] == 40
        assert told["known"] >= some - 1
        assert {
            run.name: store.tracked([run.id])[run.id].metrics["loss"] for run in store.search(limit=100)
        } == {str(number): number for number in range(40)}


def test_an_import_is_interrupted_and_repeated_and_alone(source, store, wait_until):
    where, mlflow = source
    experiment = mlflow.create_experiment("digits")
    for number in range(60):
        run = mlflow.create_run(experiment, run_name=str(number))
        mlflow.log_metric(run.info.run_id, "loss", number)
        mlflow.set_terminated(run.info.run_id)
    command = [sys.executable, "-m", "nbcloud", "import-mlflow", where]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: len(store.search(state="done")) > 2, what="the first runs")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Interrupted. " in said
    assert " came; the same command goes on from there." in said
    assert 0 < len(store.search(state="done", limit=100)) < 60
    with alone(store.directory):
        told = nbcloud("import-mlflow", where)
    assert told.returncode == 1
    assert "Another process imports runs into" in told.stderr
    imported(where)
    values = {run.name: store.tracked([run.id])[run.id].metrics["loss"] for run in store.search(limit=100)}
    assert values == {str(number): number for number in range(60)}


def test_an_experiment_that_is_not_there_is_told_with_the_nearest(source, tmp_path):
    where, mlflow = source
    fill(mlflow, tmp_path)
    told = nbcloud("import-mlflow", where, "--experiment", "digit")
    assert told.returncode == 2
    assert "MLflow has no experiment 'digit'. Did you mean 'digits'?" in told.stderr


def test_a_server_that_is_away_is_told(nbcloud_dirs, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = nbcloud("import-mlflow", "http://name:secret-word@127.0.0.1:9")
    assert told.returncode == 1
    assert "MLflow at http://127.0.0.1:9 can't be reached: [Errno 111] Connection refused." in told.stderr
    assert "secret-word" not in told.stderr


def test_a_missing_mlflow_is_named_with_its_extra(tmp_path, nbcloud_dirs, monkeypatch, capsys):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert cli.main(["import-mlflow", str(tmp_path / "mlruns")]) == 1
    assert 'pip install "nbcloud[mlflow]"' in capsys.readouterr().err

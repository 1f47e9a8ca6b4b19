"""What code logs outside of cloud cells: on the record of a run of its process, each value once."""

import base64
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import time

import pytest

from nbcloud.errors import UsageError
from nbcloud.runs import tracking
from nbcloud.runs.entries import line
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store

LOG = """
import nbcloud
nbcloud.log_params({"lr": 0.1, "model": "resnet", "deep": True, "sizes": [1, 2], "none": None})
for step in range(100):
    nbcloud.log_metric("loss", 1 / (step + 1), step=step)
nbcloud.log_metric("loss", 9.0, step=50)
nbcloud.log_metrics({"nan": float("nan"), "inf": float("-inf")})
nbcloud.set_tag("team", "vision")
with nbcloud.start_run("outer", tags={"fold": 3}):
    nbcloud.log_metric("loss", 0.5)
    with nbcloud.start_run("inner"):
        nbcloud.log_metric("loss", 0.25)
        nbcloud.set_tags({"deep": True})
"""


def log(number, *entries, run=""):
    return line(number, 1.5, {"run": run, "entries": list(entries)})


@pytest.fixture
def data_dir(nbcloud_dirs):
    return os.environ["NBCLOUD_DATA_DIR"]


@pytest.fixture
def sink():
    """A sink of this process for one test, which is closed as at the end of the process."""
    from nbcloud.runs.writer import Writer

    before, writer = tracking._sink, Writer()
    tracking.install(writer)
    yield writer
    writer._close()
    tracking._sink = before


def test_a_script_has_a_run_of_its_own(data_dir, start_python, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(LOG)
    assert start_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')").wait(60) == 0
    with Store() as store:
        inner, outer, own = store.search()
        logged = store.tracked([own.id, outer.id, inner.id])
        assert [(run.kind, run.state) for run in (inner, outer, own)] == [
            ("nested", "done"),
            ("process", "done"),
            ("process", "done"),
        ]
        assert (inner.parent, outer.parent, own.parent) == (outer.id, "", "")
        assert (inner.name, outer.name) == ("inner", "outer")
        assert (inner.tags, outer.tags, own.tags) == ({"deep": "True"}, {"fold": "3"}, {"team": "vision"})
        assert logged[own.id].params == {
            "lr": 0.1,
            "model": "resnet",
            "deep": True,
            "sizes": [1, 2],
            "none": None,
        }
        metrics = logged[own.id].metrics
        assert (metrics["loss"], metrics["inf"]) == (0.01, -math.inf)
        assert math.isnan(metrics["nan"])
        assert (logged[outer.id].metrics, logged[inner.id].metrics) == ({"loss": 0.5}, {"loss": 0.25})
        points = store.history(own.id, "loss")
        assert [point.step for point in points] == [*range(100), 50]
        assert store.search(tag="team=vision") == [own]


def test_a_script_that_fails_is_on_record_as_failed(data_dir, start_python):
    program = "import nbcloud\nnbcloud.log_metric('a', 1)\nraise ValueError"
    assert start_python(program, stderr=subprocess.DEVNULL).wait(60) == 1
    with Store() as store:
        (run,) = store.search()
        assert run.state is RunState.FAILED
        assert store.tracked([run.id])[run.id].metrics == {"a": 1.0}


def test_a_block_that_raises_is_a_failed_run(data_dir, sink):
    with pytest.raises(ZeroDivisionError), tracking.start_run("bad"):
        tracking.log_metric("a", 1 / 0)
    tracking.flush()
    with Store() as store:
        assert store.get("bad").state is RunState.FAILED


def test_a_forked_process_logs_to_a_run_of_its_own(data_dir, start_python):
    program = """
import os, nbcloud
nbcloud.log_metric("a", 1)
nbcloud.flush()
if os.fork() == 0:
    nbcloud.log_metric("a", 2)
    nbcloud.flush()
    os._exit(0)
os.wait()
nbcloud.log_metric("a", 3)
"""
    assert start_python(program).wait(60) == 0
    with Store() as store:
        child, parent = store.search()
        assert child.parent == parent.id
        assert [p.value for p in store.history(parent.id, "a")] == [1.0, 3.0]
        assert [p.value for p in store.history(child.id, "a")] == [2.0]


def test_what_flush_acknowledged_survives_a_kill(data_dir, start_python):
    program = """
import nbcloud
for step in range(10**6):
    nbcloud.log_metric("a", step, step=step)
    if step % 7 == 0:
        nbcloud.flush()
        print(step, flush=True)
"""
    for _ in range(5):
        process = start_python(program, stdout=subprocess.PIPE, text=True)
        acknowledged = int(process.stdout.readline())
        time.sleep(random.random() * 0.3)  # anywhere
        process.kill()
        for told in process.stdout.read().splitlines():
            acknowledged = int(told)
        assert process.wait(60) == -signal.SIGKILL
        with Store() as store:
            run = store.search(limit=1)[0]
            steps = [point.step for point in store.history(run.id, "a")]
        assert steps == list(range(len(steps)))
        assert len(steps) > acknowledged


def test_secrets_are_masked(data_dir, sink, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "hunter2-and-more-7")
    tracking.log_param("url", "https://x/?k=hunter2-and-more-7")
    tracking.set_tag("key", "hunter2-and-more-7")
    tracking.flush()
    with Store() as store:
        (run,) = store.search()
        assert store.tracked([run.id])[run.id].params == {"url": "https://x/?k=***"}
        assert run.tags == {"key": "***"}
    files = store.files(run.id)
    assert b"hunter2" not in files.messages.read_bytes() + files.document.read_bytes()


@pytest.mark.parametrize("value", ["a lot", None, [1, 2], 10**400])
def test_what_is_no_number_is_no_metric(data_dir, sink, value):
    with pytest.raises(UsageError, match="The metric 'a' must be a number"):
        tracking.log_metric("a", value)


def test_numbers_that_no_database_has_are_no_trouble(data_dir, sink):
    with pytest.raises(UsageError, match="and its step a whole one"):
        tracking.log_metric("a", 1.0, step=2**63)
    tracking.log_metric("a", 1.0, step=-(2**63) + 1)
    tracking.log_params({"huge": 16**300, "deep": [10**5000], "large": 2**1022, "lone": "\ud800"})
    tracking.flush()
    with Store() as store:
        (run,) = store.search()
        params = store.tracked([run.id])[run.id].params
    assert (params["huge"], params["large"]) == (f"0x1{'0' * 300}", 2**1022)
    assert int(params["deep"][0], 16) == 10**5000
    assert params["lone"] == "\ud800"


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/a", "..", "a\\b", "."])
def test_a_file_on_record_has_a_name_within_its_run(data_dir, sink, tmp_path, name):
    (tmp_path / "a").write_text("a")
    with pytest.raises(UsageError, match="can't be the name of a file on record"):
        tracking.log_artifact(tmp_path / "a", name)


@pytest.mark.parametrize("key", ["", "a\nb", 7, "x" * 251])
def test_a_key_is_a_short_text(data_dir, sink, key):
    with pytest.raises(UsageError, match="can't be the name"):
        tracking.log_param(key, 1)


def test_values_of_numpy_are_numbers(data_dir, sink):
    import numpy

    tracking.log_metric("a", numpy.float32(0.5), step=numpy.int64(3))
    tracking.log_params({"n": numpy.int64(4), "path": sink.__class__})
    tracking.flush()
    with Store() as store:
        (run,) = store.search()
        assert [(p.step, p.value) for p in store.history(run.id, "a")] == [(3, 0.5)]
        assert store.tracked([run.id])[run.id].params["n"] == 4


def test_lines_that_come_again_count_once(store):
    run = store.begin(Run(code="1"))
    lines = log(1, ["metric", "a", 1.0, 0, 1.5], ["metric", "a", 2.0, 1, 1.5], ["param", "p", 1])
    store.append(run.id, lines)
    store.append(run.id, lines + log(2, ["param", "p", 2]))
    store.append(run.id, lines)
    store.finish(run.changed(state="done"))
    assert [p.value for p in store.history(run.id, "a")] == [1.0, 2.0]
    assert store.tracked([run.id])[run.id].params == {"p": 2}


def test_who_died_between_log_and_database_loses_nothing(store):
    run = store.begin(Run(code="1"))
    store._logs.append(run.id, log(1, ["metric", "a", 1.0, None, 1.5], ["tag", "t", "v"]))
    with Store(store.directory) as other:
        other.finish(run.changed(state="done"))
    assert store.tracked([run.id])[run.id].metrics == {"a": 1.0}
    assert store.get(run.id).tags == {"t": "v"}


def test_the_database_is_made_again_from_the_files(store):
    run, going = store.begin(Run(code="1")), store.begin(Run(code="2"))
    begin = ["begin", {"kind": "nested", "name": "n", "tags": {}, "time": 1.5, "parent": ""}]
    part = "r0000000000000"[:13]
    store.append(run.id, log(1, ["metric", "a", 1.0, None, 1.5]) + log(2, begin, ["param", "p", 1], run=part))
    store.append(going.id, log(1, ["metric", "a", 2.0, None, 1.5]))
    store.finish(run.changed(state="done"))
    store.close()
    for path in store.directory.glob("runs.db*"):
        path.unlink()
    with Store(store.directory) as again:
        logged = again.tracked([run.id, going.id, part])
        assert (logged[run.id].metrics, logged[going.id].metrics) == ({"a": 1.0}, {"a": 2.0})
        assert logged[part].params == {"p": 1}


def test_a_nested_run_ends_with_that_in_which_it_is(store):
    run = store.begin(Run(code="1", session="s"))
    begin = ["begin", {"kind": "nested", "name": "n", "tags": {}, "time": 1.5, "parent": ""}]
    part = "r0000000000000"[:13]
    store.append(run.id, log(1, begin, run=part))
    assert (store.get(part).state, store.get(part).session) == (RunState.RUNNING, "s")
    store.finish(run.changed(state="timeout", message="it took too long"))
    assert (store.get(part).state, store.get(part).message) == (RunState.TIMEOUT, "it took too long")


def test_a_store_of_the_time_before_is_migrated(store, tmp_path):
    import sqlite3

    from nbcloud.runs.database import MIGRATIONS

    run = store.begin(Run(code="1"))
    store.close()
    for path in store.directory.glob("runs.db*"):
        path.unlink()
    with sqlite3.connect(store.directory / "runs.db") as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        document = {key: value for key, value in run.to_json().items() if key != "parent"}
        row = (run.created, json.dumps(document))
        connection.execute(
            "INSERT INTO runs VALUES (1, '', 'cell', 'queued', '', '', '', '', ?, NULL, 0, 1)", row[:1]
        )
        connection.execute("INSERT INTO documents VALUES (1, ?)", row[1:])
        connection.execute("PRAGMA user_version=1")
    connection.close()
    assert store.search() == [run]
    assert store.tracked([run.id])[run.id].metrics == {}


def test_files_are_kept_once_for_each_content(data_dir, sink, tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "a.txt").write_text("same")
    (tmp_path / "folder" / "deep" / "b.txt").write_text("same")
    (tmp_path / "empty").touch()
    tracking.log_artifact(tmp_path / "folder")
    tracking.log_artifact(tmp_path / "folder" / "a.txt")
    tracking.log_artifact(tmp_path / "empty", "nothing")
    (tmp_path / "folder" / "a.txt").write_text("changed behind it")
    tracking.flush()
    with Store() as store:
        (run,) = store.search()
        names = store.tracked([run.id])[run.id].artifacts
        assert list(names) == ["a.txt", "folder/a.txt", "folder/deep/b.txt", "nothing"]
        paths = {name: store.artifact(run.id, name) for name in names}
        assert {paths[name].read_text() for name in list(names)[:3]} == {"same"}
        assert len(set(paths.values())) == 2
        assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o600}
        with pytest.raises(UsageError, match=r"no artifact 'c'\. There are: a.txt, folder"):
            store.artifact(run.id, "c")
    with pytest.raises(UsageError, match="There is no file 'gone' to log"):
        tracking.log_artifact("gone")


def part(number, digest, offset, data):
    whole = json.loads(log(number, ["part", digest, offset]))
    encoded = base64.b64encode(data).decode()
    return json.dumps({**whole, "buffers": [encoded]}, separators=(",", ":")).encode() + b"\n"


def test_an_artifact_is_whole_when_all_parts_have_come(store):
    data = b"0123456789"
    digest = hashlib.sha256(data).hexdigest()
    run = store.begin(Run(code="1"))
    artifact = log(3, ["artifact", "a", {"hash": digest, "bytes": 10}])
    store.append(run.id, part(1, digest, 0, data[:6]) + artifact)
    with pytest.raises(UsageError, match="is not here whole"):
        store.artifact(run.id, "a")
    store.append(run.id, part(2, digest, 6, data[6:]) + artifact)
    assert store.artifact(run.id, "a").read_bytes() == data
    store.finish(run.changed(state="done"))
    assert digest[:8].encode() in store.files(run.id).logged.read_bytes()
    assert b"buffers" not in store.files(run.id).logged.read_bytes()


def test_values_and_displays_are_recorded(data_dir, sink):
    import numpy
    import pandas
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([1, 2])
    tracking.record("dict", {"a": [1, None]})
    tracking.record("number", numpy.float64(0.5))
    tracking.record("table", pandas.DataFrame({"x": [1]}))
    tracking.record("figure", figure)
    tracking.log_figure(figure, "curve")
    tracking.log_figure(figure.axes[0], "curve.svg")
    with pytest.raises(UsageError, match="A dict is no figure"):
        tracking.log_figure({}, "x")
    with pytest.raises(UsageError, match=r"The figure 'x.docx' can't be written: .*docx"):
        tracking.log_figure(figure, "x.docx")
    tracking.flush()
    with Store() as store:
        (run,) = store.search()
        kept = store.tracked([run.id])[run.id]
        assert kept.records["dict"] == {"value": {"a": [1, None]}}
        assert kept.records["number"] == {"value": 0.5}
        assert "<table" in kept.records["table"]["data"]["text/html"]
        assert base64.b64decode(kept.records["figure"]["data"]["image/png"]).startswith(b"\x89PNG")
        assert list(kept.artifacts) == ["curve.png", "curve.svg"]
        assert b"<svg" in store.artifact(run.id, "curve.svg").read_bytes()


def test_equal_datasets_have_equal_hashes(data_dir, sink, tmp_path):
    import numpy
    import pandas

    table = pandas.DataFrame({"x": [1.0, None], "y": ["a", "b"]})
    array = numpy.arange(6).reshape(2, 3)
    same = tracking.log_dataset(table, "train")
    assert tracking.log_dataset(table.copy(), "again") == same
    assert tracking.log_dataset(table.rename(columns={"x": "z"}), "renamed") != same
    assert tracking.log_dataset(array, "a") == tracking.log_dataset(numpy.asfortranarray(array), "b")
    assert tracking.log_dataset(array.astype(">i8"), "c") == tracking.log_dataset(array, "a")
    assert tracking.log_dataset(array.T.reshape(2, 3), "d") != tracking.log_dataset(array, "a")
    assert tracking.log_dataset({"x": array, "y": table["y"]}, "both")
    (tmp_path / "data.csv").write_text("x,y\n")
    tracking.log_dataset(tmp_path / "data.csv", "file")
    with pytest.raises(UsageError, match="A set can't be logged as a dataset"):
        tracking.log_dataset({1}, "set")
    with pytest.raises(UsageError, match="A column of this table holds what has no hash"):
        tracking.log_dataset(pandas.DataFrame({"x": [[1], [2]]}), "lists")
    tracking.flush()
    with Store() as store:
        (run,) = store.search()
        facts = store.tracked([run.id])[run.id].datasets
        assert (facts["train"]["rows"], facts["train"]["kind"]) == (2, "table")
        assert facts["train"]["schema"][0] == {"name": "x", "type": "float64"}
        assert facts["a"]["schema"] == {"shape": [2, 3], "type": "int64"}

"""The commands about what runs logged."""

import json

import pytest

from nbcloud import cli
from nbcloud.runs.entries import line
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store


@pytest.fixture
def runs():
    with Store() as store:
        made = []
        for number, name in enumerate(["one", "two"]):
            run = store.begin(Run(name=name, code="1"))
            digest, _ = store.artifacts.keep(b"weights")
            entries = [
                ["param", "lr", [0.1, 0.01][number]],
                ["param", "seed", 3],
                ["metric", "loss", 0.5 - number / 4, 1, 1.0],
                ["artifact", ["w.bin", "../w.bin"][number], {"hash": digest, "bytes": 7}],
            ]
            store.append(run.id, line(1, 1.0, {"run": "", "entries": entries}))
            made.append(store.finish(run.changed(state="done")))
    return made


def said(capsys, *words):
    code = cli.main([*words])
    told = capsys.readouterr()
    return told.out if code == 0 else told.err


def test_the_best_run(runs, capsys):
    told = json.loads(said(capsys, "runs", "--order-by", "metrics.loss", "-n", "1", "--metrics", "--json"))
    assert [(run["name"], run["metrics"], run["params"]["lr"]) for run in told] == [
        ("two", {"loss": 0.25}, 0.01)
    ]
    told = said(capsys, "runs", "--filter", "metrics.loss > 0.3", "--metrics")
    assert "one" in told
    assert "two" not in told
    assert "No run on record is like that" in said(capsys, "runs", "--filter", "metrics.loss > 3")


def test_runs_side_by_side(runs, capsys):
    lines = {
        row.split()[0]: row.split()[1:] for row in said(capsys, "compare", "one", "two").splitlines()[1:]
    }
    assert lines["params.lr"] == ["0.1", "0.01", "differs"]
    assert lines["params.seed"] == ["3", "3"]
    assert lines["metrics.loss"] == ["0.5", "0.25", "differs"]


def test_files_of_a_run(runs, capsys, tmp_path):
    assert said(capsys, "artifacts", "one").splitlines()[1].split()[:3] == ["w.bin", "7", "B"]
    said(capsys, "artifacts", "one", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "w.bin").read_bytes() == b"weights"
    assert "would lie outside of" in said(capsys, "artifacts", "two", "-o", str(tmp_path / "out"))


def test_delete_restore_and_gc(runs, capsys):
    assert f"Deleted {runs[0].id}. " in said(capsys, "delete", "one")
    assert " one " not in said(capsys, "runs")
    assert " one " in said(capsys, "runs", "--deleted")
    assert "Removed 0 runs" in said(capsys, "gc")
    said(capsys, "restore", runs[0].id)
    assert " one " in said(capsys, "runs")
    said(capsys, "delete", "one", "two")
    assert "Removed 2 runs" in said(capsys, "gc", "--older", "0s")
    assert "No run is on record" in said(capsys, "runs")


def test_a_run_of_a_process_is_not_cancelled_from_here(capsys):
    with Store() as store:
        store.begin(Run(name="script", kind="process", host="here"))
    assert "is that of a process on here, not of a cluster" in said(capsys, "cancel", "script")

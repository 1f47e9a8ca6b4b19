"""Runs belong to experiments, from the moment on in which somebody says so."""

import json
import os

import pytest

from nbcloud import cli
from nbcloud.errors import ConfigError, UsageError
from nbcloud.runs import experiments, tracking
from nbcloud.runs.entries import line
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store

SCRIPT = """
import nbcloud
with nbcloud.start_run("before"):
    pass
with nbcloud.start_run("moved"):
    with nbcloud.start_run("moved, too"):
        nbcloud.set_experiment("digits")
with nbcloud.start_run("behind"):
    with nbcloud.start_run("inside"):
        pass
"""


@pytest.fixture
def data_dir(nbcloud_dirs):
    return os.environ["NBCLOUD_DATA_DIR"]


def of_names(store):
    return {run.name: run.experiment for run in store.search()}


def test_a_script_says_to_which_experiment_its_runs_belong(data_dir, start_python):
    assert start_python(SCRIPT).wait() == 0
    with Store() as store:
        assert of_names(store) == {
            "before": "Default",
            "moved": "Default",
            "moved, too": "digits",
            "behind": "digits",
            "inside": "digits",
        }
        assert [run.name for run in store.search(filter='experiment = "Default" and name like "m%"')] == [
            "moved"
        ]
        assert len(store.search(filter="experiment != 'Default'")) == 3


def test_the_setting_holds_where_nothing_is_said(data_dir, start_python, monkeypatch):
    monkeypatch.setenv("NBCLOUD_EXPERIMENT", "nightly")
    assert start_python("import nbcloud; nbcloud.log_metric('loss', 1)").wait() == 0
    with Store() as store:
        assert set(of_names(store).values()) == {"nightly"}
    monkeypatch.setenv("NBCLOUD_EXPERIMENT", " ")
    with pytest.raises(ConfigError, match="is no name of an experiment"):
        experiments.current()


def test_saying_so_begins_no_run(data_dir, start_python):
    assert start_python("import nbcloud; nbcloud.set_experiment('x'); nbcloud.flush()").wait() == 0
    with Store() as store:
        assert store.search() == []
    with pytest.raises(UsageError, match="can't be the name"):
        tracking.set_experiment("")


def test_what_code_says_outlives_the_end_and_the_database(data_dir):
    with Store() as store:
        run = store.begin(Run(code="1"))
        store.append(run.id, line(1, 1.0, {"run": "", "entries": [["experiment", "digits"]]}))
        store.finish(run.changed(state="done"))  # as known to one who has not heard of it
        assert store.get(run.id).experiment == "digits"
    (store.directory / "runs.db").unlink()
    with Store() as store:
        assert store.get(run.id).experiment == "digits"


def test_the_command_counts_runs(data_dir, capsys):
    with Store() as store:
        for experiment, state in [("a", "done"), ("a", "running"), ("down", "failed")]:
            store.begin(run := Run(code="1", experiment=experiment, extra={"client": "1-0"}))
            if state != "running":
                store.finish(run.changed(state=state))
        store.update(run.id, deleted=1.0)
    assert cli.main(["experiments", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["runs"], told["unfinished"]) == ("a", 2, 0)  # whose process is gone
    assert cli.main(["runs", "--filter", "experiment = 'a'"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[5] == "experiment"

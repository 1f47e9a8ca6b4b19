import json
import pickle
import subprocess
import time

import pytest

from nbcloud.errors import StoreError, UsageError
from nbcloud.runs import record
from nbcloud.runs.record import Run, RunState, environment_facts, git_facts, is_run_id, new_run_id


def test_ids_are_short_and_sort_by_time():
    ids = [new_run_id() for _ in range(5000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5000
    assert all(is_run_id(run_id) and len(run_id) == 13 for run_id in ids)
    assert new_run_id(time.time() - 1) < ids[0] < new_run_id(time.time() + 60)


def test_an_id_is_a_number_and_back():
    for run_id in (new_run_id(), new_run_id(0.0), new_run_id(4e9)):
        assert record.number_id(record.id_number(run_id)) == run_id


@pytest.mark.parametrize("text", ["", "r", "../../etc/pwd", "rILOU", "x23", "r" + "0" * 13, "r00000000000/"])
def test_what_is_no_id(text):
    assert not is_run_id(text)


def test_a_run_survives_json():
    run = Run(
        name="train",
        state=RunState.FAILED,
        code="1/0  # ünïcode",
        inputs=[{"name": "x", "hash": "ab", "bytes": 3, "kind": "array"}],
        error={"ename": "ZeroDivisionError", "evalue": "division by zero"},
        tags={"lr": "0.1"},
        git={"commit": "abc", "branch": "main", "dirty": True},
        finished=2.5,
    )
    assert Run.from_json(json.dumps(run.to_json())) == run
    assert Run.from_json(json.dumps(run.to_json()).encode()) == run
    assert pickle.loads(pickle.dumps(run)) == run


def test_keys_of_a_later_nbcloud_are_kept():
    document = Run().to_json() | {"cost": {"eur": 0.2}, "extra": [1]}
    again = Run.from_json(document)
    assert again.changed(name="x").to_json() == document | {"name": "x"}


@pytest.mark.parametrize("document", ["", "[]", "null", "{}", '{"id": "r1", "state": "done"}', b"\xff"])
def test_what_is_no_run_document_is_said(document):
    with pytest.raises(StoreError, match="not a run document"):
        Run.from_json(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tags", ["a"]),
        ("name", 3),
        ("created", "now"),
        ("created", 10**400),
        ("finished", float("nan")),
        ("messages", True),
        ("error", "E"),
        ("inputs", {}),
        ("code", None),
        ("state", 1),
    ],
)
def test_a_document_with_a_field_of_another_type_is_refused(field, value):
    with pytest.raises(StoreError, match=f"not a run document.*{field if field != 'state' else '1'}"):
        Run.from_json(Run().to_json() | {field: value})


def test_a_state_of_a_later_nbcloud_is_said():
    with pytest.raises(StoreError, match="pip install -U nbcloud"):
        Run.from_json(Run().to_json() | {"state": "paused"})


ENDS = {RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.TIMEOUT}


@pytest.mark.parametrize("before", RunState)
@pytest.mark.parametrize("after", RunState)
def test_a_finished_run_never_goes_back(before, after):
    run = Run(state=before)
    allowed = {
        RunState.QUEUED: set(RunState),
        RunState.RUNNING: set(RunState) - {RunState.QUEUED},
        RunState.LOST: set(RunState) - {RunState.QUEUED},  # a notebook may be gone on with
    }.get(before, {before})
    if after in allowed:
        assert run.changed(state=after).state is after
    else:
        with pytest.raises(UsageError, match=f"is {before} and can't become {after}"):
            run.changed(state=after)


def test_a_wrong_change_says_what_is_right():
    with pytest.raises(UsageError, match="Did you mean 'started'"):
        Run().changed(startd=1.0)
    with pytest.raises(UsageError, match="queued, running, done"):
        Run().changed(state="finished")
    with pytest.raises(UsageError, match="can't change"):
        Run().changed(id=new_run_id())


def test_seconds():
    assert Run().seconds is None
    assert Run(started=10.0, finished=12.5).seconds == 2.5
    assert Run(started=time.time() - 5).seconds >= 5


def test_environment_facts_name_the_versions():
    facts = environment_facts()
    assert {"python", "platform", "distributed", "ipython"} <= set(facts)
    json.dumps(facts)


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    answer = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()


def test_git_facts_tell_commit_branch_and_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_GIT_SECONDS", -1.0)
    git(tmp_path, "init", "-q", "-b", "trunk")
    assert git_facts(tmp_path) == {"commit": None, "branch": "trunk", "dirty": False}
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_facts(tmp_path) == {"commit": commit, "branch": "trunk", "dirty": False}
    (tmp_path / "a.py").write_text("2")
    git(tmp_path, "checkout", "-q", "--detach")
    (tmp_path / "below").mkdir()
    assert git_facts(tmp_path / "below") == {"commit": commit, "branch": None, "dirty": True}


def test_git_facts_never_raise(tmp_path, monkeypatch):
    assert git_facts(tmp_path / "nowhere") is None
    assert git_facts("\0") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_facts(tmp_path) is None


def test_git_is_asked_once_in_some_seconds(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(record, "_ask_git", lambda cwd: asked.append(cwd) or {"commit": "c"})
    git_facts(tmp_path)["commit"] = "spoilt"
    assert git_facts(tmp_path) == {"commit": "c"}
    assert len(asked) == 1

"""Records of runs whose notebook and cluster are gone are completed from what the journal left."""

import json
import os

import pytest

from nbcloud.clusters import registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.config import settings
from nbcloud.dispatch.attach import attach, complete_records
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.errors import RunNotFound
from nbcloud.runs.owners import process_mark
from nbcloud.runs.record import Run, RunState


def line(number, kind, content):
    entry = {"n": number, "time": 5.0 + number, "msg_type": kind, "content": content, "metadata": {}}
    return json.dumps(entry).encode() + b"\n"


def text(number):
    return line(number, "stream", {"name": "stdout", "text": f"{number}\n"})


def end(number, state, why=""):
    return line(number, "nbcloud_finished", {"state": state, "why": why, "exit_code": None})


@pytest.fixture
def orphan():
    """A run whose notebook is gone; two of its messages are on record."""
    run = Run(code="1", cluster_id="gone", state=RunState.RUNNING, extra={"client": "1-0.00"})
    with open_store() as store:
        run = store.begin(run)
        store.append(run.id, text(1) + text(2))
    return run


def journal(run):
    folder = settings().runtime_dir / "clusters" / "local-gone" / "journal"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{run.id}.jsonl"


def test_what_was_missed_is_added_and_the_end_is_known(orphan):
    journal(orphan).write_bytes(text(1) + text(2) + text(3) + text(4) + end(5, "done"))
    assert complete_records() == []
    with open_store() as store:
        assert store.get(orphan.id).state is RunState.DONE
        assert store.get(orphan.id).finished == 10.0
        assert store.text(orphan.id) == "1\n2\n3\n4\n"


def test_a_torn_last_line_is_passed_over(orphan):
    journal(orphan).write_bytes(text(1) + text(2) + text(3) + text(4)[:-20])
    complete_records()
    with open_store() as store:
        assert store.get(orphan.id).state is RunState.LOST
        assert store.text(orphan.id) == "1\n2\n3\n"


def test_without_a_journal_it_was_lost(orphan):
    complete_records()
    with open_store() as store:
        run = store.get(orphan.id)
        assert run.state is RunState.LOST
        assert "its cluster ended" in run.message
        assert store.text(run.id) == "1\n2\n"


def test_what_another_process_keeps_on_record_is_left_to_it():
    with open_store() as store:
        run = store.begin(Run(code="1", cluster_id="gone", extra={"client": process_mark()}))
    complete_records()
    with open_store() as store:
        assert not store.get(run.id).state.ended


def test_completing_twice_adds_nothing(orphan):
    journal(orphan).write_bytes(text(1) + text(2) + text(3) + end(4, "failed"))
    complete_records()
    complete_records()
    with open_store() as store:
        assert store.get(orphan.id).state is RunState.FAILED
        assert store.text(orphan.id) == "1\n2\n3\n"


def test_the_journal_goes_when_all_of_it_is_on_record(orphan):
    journal(orphan).write_bytes(text(1) + text(2) + text(3) + end(4, "done"))
    directory = journal(orphan).parents[1]
    complete_records()
    assert not directory.exists()
    with open_store() as store:
        assert store.text(orphan.id) == "1\n2\n3\n"


def test_a_run_that_was_lost_with_its_cluster_is_completed_too(orphan):
    with open_store() as store:
        store.update(orphan.id, state=RunState.LOST, message="killed")
    journal(orphan).write_bytes(text(1) + text(2) + text(3) + end(4, "done"))
    complete_records()
    assert not journal(orphan).exists()
    with open_store() as store:
        assert store.get(orphan.id).state is RunState.DONE
        assert store.text(orphan.id) == "1\n2\n3\n"


def test_why_it_was_lost_is_still_told_when_its_end_is_unknown(orphan):
    with open_store() as store:
        store.update(orphan.id, state=RunState.LOST, message="killed", finished=3.0)
    journal(orphan).write_bytes(text(1) + text(2) + text(3))
    complete_records()
    assert not journal(orphan).exists()
    with open_store() as store:
        run = store.get(orphan.id)
        assert (run.state, run.message, run.finished) == (RunState.LOST, "killed", 3.0)
        assert store.text(orphan.id) == "1\n2\n3\n"


def test_the_journal_stays_for_those_who_may_still_need_it(orphan):
    with open_store() as store:
        owned = store.begin(Run(code="1", cluster_id="gone", extra={"client": process_mark()}))
    stranger, forgotten = Run(code="1"), Run(code="1")
    for run in (orphan, owned, stranger, forgotten):
        journal(run).write_bytes(text(1))
    os.utime(journal(forgotten), (1e9, 1e9))
    complete_records()
    assert {path.stem for path in journal(orphan).parent.iterdir()} == {owned.id, stranger.id}


@pytest.mark.usefixtures("orphan")
def test_the_journal_of_a_live_cluster_is_left_alone():
    folder = settings().runtime_dir / "clusters" / "lab-11111111" / "journal"
    folder.mkdir(parents=True)
    (folder / "r.jsonl").touch()
    os.utime(folder / "r.jsonl", (1e9, 1e9))
    registry.put(ClusterInfo("lab", "11111111", "existing", "tcp://lab.example:8786"))
    complete_records()
    assert (folder / "r.jsonl").exists()


def test_attach_to_what_is_gone_names_the_record(orphan):
    recorder = Recorder()
    with pytest.raises(RunNotFound, match=rf"cluster of run {orphan.id} is gone.*%cloud logs {orphan.id}"):
        attach(orphan.id, recorder)
    with pytest.raises(RunNotFound):
        attach("nosuchrun", recorder)
    recorder.close()

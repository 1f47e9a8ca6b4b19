"""Deleting takes two steps: put away, and removed later."""

import os
import time

import pytest

from nbcloud.errors import RunNotFound, UsageError
from nbcloud.runs.entries import line
from nbcloud.runs.record import Run
from nbcloud.runs.removal import bring_back, collect_garbage, put_away


@pytest.fixture
def runs(store):
    """Two runs that have logged the same file and one more each; in the first, another is nested."""
    made = []
    same, _ = store.artifacts.keep(b"same")
    for number in range(2):
        run = store.begin(Run(name=f"run{number}", code="1"))
        own, _ = store.artifacts.keep(b"own %d" % number)
        entries = [
            ["artifact", "own", {"hash": own, "bytes": 5}],
            ["artifact", "same", {"hash": same, "bytes": 4}],
        ]
        store.append(run.id, line(1, 1.0, {"run": "", "entries": entries}))
        if number == 0:
            begin = ["begin", {"kind": "nested", "name": "part", "tags": {}, "time": 1.0, "parent": ""}]
            part = {"run": "r000000000000", "entries": [begin, ["metric", "a", 1.0, 0, 1.0]]}
            store.append(run.id, line(2, 1.0, part))
        made.append(store.finish(run.changed(state="done")))
    for path in store.artifacts._folder.glob("*/*"):
        os.utime(path, (1.0, 1.0))
    return made


def test_what_was_deleted_can_be_restored(store, runs):
    first, second = runs
    assert {run.name for run in put_away(store, "run0")} == {"run0", "part"}
    assert store.search() == [second]
    assert {run.name for run in store.search(deleted=True)} == {"run0", "part"}
    with pytest.raises(RunNotFound):
        store.get("run0")
    assert collect_garbage(store, 3600) == ([], 0)
    bring_back(store, first.id)
    assert {run.name for run in store.search()} == {"run0", "run1", "part"}
    assert store.artifact(first.id, "own").read_bytes() == b"own 0"


def test_what_was_deleted_long_ago_is_removed(store, runs):
    first, second = runs
    put_away(store, first.id)
    gone, freed = collect_garbage(store, 0)
    assert (set(gone), freed) == ({first.id, "r000000000000"}, 5)
    assert store.search(deleted=True) == []
    assert store._database.read("SELECT run FROM metrics") == []
    assert not store.files(first.id).directory.exists()
    assert store.artifact(second.id, "same").read_bytes() == b"same"


def test_a_content_that_has_just_come_stays(store, runs):
    digest, _ = store.artifacts.keep(b"nobody's yet")
    assert collect_garbage(store, 0) == ([], 0)
    old = time.time() - 2 * 86400
    os.utime(store.artifacts.path(digest), (old, old))
    assert collect_garbage(store, 0) == ([], 12)


def test_what_has_not_ended_stays(store):
    run = store.begin(Run(code="1"))
    with pytest.raises(UsageError, match=r"is queued\. Cancel it first"):
        put_away(store, run.id)

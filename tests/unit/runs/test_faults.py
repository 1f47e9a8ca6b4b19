"""Disks that are full, read-only or damaged."""

import json
import os
import subprocess

import pytest

from nbcloud.errors import StoreError
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store


def finished(run, state="done"):
    return run.changed(state=state, finished=run.created + 1)


def fill_disk(folder):
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue


def test_a_full_disk_loses_nothing_and_says_so(small_disk, line):
    folder, _ = small_disk
    with Store(folder / "data") as store:
        done = store.begin(Run(name="done"))
        store.finish(finished(done))
        run = store.begin(Run(name="running"))
        store.append(run.id, line(1, "one\n"))
        fill_disk(folder)

        batch = b"".join(line(number, "x" * 5000) for number in range(2, 10))
        for _ in range(2):
            with pytest.raises(StoreError, match=r"No space left on device.*NBCLOUD_DATA_DIR"):
                store.append(run.id, batch)
        assert store.last_number(run.id) == 1
        assert store.text(run.id) == "one\n"
        with pytest.raises(StoreError, match=r"No space left|disk is full"):
            store.begin(Run(code="x" * 10_000))
        with pytest.raises(StoreError, match=r"No space left|disk is full"):
            store.update(run.id, message="x" * 100_000)
        with pytest.raises(StoreError, match=r"No space left|disk is full"):
            store.finish(finished(run.changed(code="x" * 10_000)))
        assert store.get(done.id).state is RunState.DONE
        assert store.search(name="running")[0].id == run.id
        assert store.text(run.id) == "one\n"

        (folder / "ballast").unlink()
        store.append(run.id, batch)
        store.finish(finished(run))
        assert len(store.text(run.id)) == 4 + 8 * 5000
        assert store.search(name="running")[0].state is RunState.DONE


def test_an_end_that_was_recorded_is_composed_when_there_is_room(small_disk, line):
    folder, _ = small_disk
    with Store(folder / "data") as store:
        run = store.begin(Run())
        store.append(run.id, line(1, "x" * 900_000))  # on this disk once, but not twice
        (folder / "ballast").write_bytes(b"x" * 600_000)
        with pytest.raises(StoreError, match="No space left on device"):
            store.finish(finished(run))
        assert store.get(run.id).state is RunState.DONE
        assert len(store.text(run.id)) == 900_000
        assert store.unfinished() == []
        assert store.files(run.id).messages.exists()
        (folder / "ballast").unlink()
        store.tidy()
        assert not store.files(run.id).messages.exists()
        assert len(store.text(run.id)) == 900_000


def test_a_read_only_disk_can_be_read(small_disk, line):
    folder, remount = small_disk
    with Store(folder / "data") as store:
        run = store.begin(Run(code="import this"))
        store.append(run.id, line(1, "text\n"))
        store.finish(finished(run))
        running = store.begin(Run())
    remount("ro")
    with Store(folder / "data") as store:
        assert store.search("import") == [store.get(run.id)]
        assert store.text(run.id) == "text\n"
        assert store.unfinished() == [running]
        for attempt in (
            lambda: store.begin(Run()),
            lambda: store.append(running.id, line(1, "x")),
            lambda: store.update(running.id, name="x"),
            lambda: store.finish(finished(running)),
            lambda: store.delete(run.id),
            lambda: store.artifacts.keep(b"x"),
        ):
            with pytest.raises(StoreError, match=r"(?i)read-only.*NBCLOUD_DATA_DIR"):
                attempt()
    with Store(folder / "other") as none, pytest.raises(StoreError, match=r"(?i)read-only.*NBCLOUD_DATA_DIR"):
        none.search()


def test_a_limit_on_file_size_tears_no_line(tmp_path, start_python):
    program = """
import json, resource, sys
from nbcloud.errors import StoreError
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
def line(n):
    content = {"name": "stdout", "text": "x" * 999}
    return json.dumps({"n": n, "msg_type": "stream", "content": content}).encode() + b"\\n"
with Store(sys.argv[1]) as store:
    run = store.begin(Run())
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    accepted = 0
    try:
        while True:
            store.append(run.id, line(accepted + 1) + line(accepted + 2))
            accepted += 2
    except StoreError as error:
        assert "File too large" in str(error), error
    assert store.last_number(run.id) == accepted, accepted
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.append(run.id, line(accepted + 1))
    store.finish(run.changed(state="done"))
    print(run.id, accepted + 1)
"""
    process = start_python(program, tmp_path / "data", stdout=subprocess.PIPE, text=True)
    answer, _ = process.communicate(timeout=60)
    run_id, accepted = answer.split()
    with Store(tmp_path / "data") as store:
        assert len(store.text(run_id)) == int(accepted) * 999


@pytest.fixture
def some_runs(tmp_path, line):
    """A store with a finished, a lost and a running run, and those runs."""
    with Store(tmp_path / "data") as store:
        done, lost, running = (store.begin(Run(code=f"word {i}", tags={"a": str(i)})) for i in range(3))
        for run in (done, lost, running):
            store.append(run.id, line(1, f"text {run.id}\n"))
        kept = [store.finish(finished(done)), store.finish(finished(lost, "lost"))]
        yield store, [store.update(running.id, state="running"), *reversed(kept)]


def empty_wal(store):
    store._database.ask(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())


def garbage(data):
    return os.urandom(len(data))


def no_header(data):
    return b"\0" * 200 + data[200:]


def bad_pages(data):
    return data[:8192] + os.urandom(len(data) - 8192)


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [garbage, no_header, bad_pages, cut])
@pytest.mark.parametrize("opened", ["open", "closed"])
def test_a_damaged_database_is_set_aside_and_made_again(some_runs, damage, opened):
    store, runs = some_runs
    store.close()
    if opened == "open":
        store.get(runs[0].id)
    database = store.directory / "runs.db"
    if opened == "open":
        empty_wal(store)
        with database.open("r+b") as file:
            data = damage(file.read())
            file.seek(0)
            file.write(data)
            file.truncate(len(data))
        store._database.ask(lambda connection: connection.execute("PRAGMA shrink_memory"))
    else:
        database.write_bytes(damage(database.read_bytes()))
    with pytest.warns(RuntimeWarning, match=r"was damaged; it was moved to runs.db.corrupt-.* of 3 runs"):
        assert store.search("word") == runs
    assert store.search(tag="a=0") == runs[2:]
    assert store.unfinished() == runs[:1]
    assert [store.text(run.id) for run in runs] == [f"text {run.id}\n" for run in runs]
    assert list(store.directory.glob("runs.db.corrupt-*"))
    with Store(store.directory) as other:
        assert other.search() == runs
    new = store.begin(Run())
    assert store.search(limit=1) == [new]


def test_a_database_that_another_process_replaced_is_found(some_runs):
    store, runs = some_runs
    with Store(store.directory) as other:
        assert other.search() == runs
        empty_wal(store)
        store.close()
        (store.directory / "runs.db").write_bytes(b"not a database " * 1000)
        with pytest.warns(RuntimeWarning, match="damaged"):
            store.update(runs[0].id, name="new")
        assert other.get(runs[0].id).name == "new"
        other.update(runs[0].id, name="newer")
    assert store.get(runs[0].id).name == "newer"


def test_a_database_that_was_removed_is_made_again(some_runs):
    store, runs = some_runs
    store.close()
    for path in store.directory.glob("runs.db*"):
        path.unlink()
    assert store.search("word") == runs


def test_damaged_documents_do_not_stop_the_repair(some_runs):
    store, runs = some_runs
    store.close()
    (store.directory / "runs.db").unlink()
    store.files(runs[0].id).document.write_bytes(b"{")  # no notebook either: this one is gone
    store.files(runs[2].id).document.unlink()  # its notebook has the document too
    (store.directory / "runs" / "something else").mkdir()
    assert store.search() == runs[1:]


def test_a_document_with_odd_values_does_not_stop_the_repair(some_runs):
    store, runs = some_runs
    store.close()
    (store.directory / "runs.db").unlink()
    odd = runs[0].to_json() | {"tags": ["a"], "created": "now"}
    store.files(runs[0].id).document.write_text(json.dumps(odd))
    assert store.search() == runs[1:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"cells": 1, "metadata": {}}',
        b'{"cells": [], "metadata": {}}',
        b'{"cells": [{"outputs": [1]}], "metadata": {}}',
    ],
)
def test_a_damaged_notebook_is_said_and_the_rest_is_there(some_runs, content):
    store, runs = some_runs
    notebook = store.files(runs[2].id).notebook
    notebook.write_bytes(content)
    with pytest.raises(StoreError, match=r"run.ipynb"):
        store.outputs(runs[2].id)
    with pytest.raises(StoreError, match=r"run.ipynb"):
        store.text(runs[2].id)
    assert store.search("word") == runs
    store.delete(runs[2].id)
    assert store.search("word") == runs[:2]


def test_a_missing_notebook_is_said(some_runs):
    store, runs = some_runs
    store.files(runs[2].id).notebook.unlink()
    with pytest.raises(StoreError, match=r"run.ipynb: No such file"):
        store.text(runs[2].id)


def test_a_notebook_that_jupyter_saved_again_is_read(some_runs):
    store, runs = some_runs
    path = store.files(runs[2].id).notebook
    notebook = json.loads(path.read_bytes())
    output = notebook["cells"][0]["outputs"][0]
    output["text"] = output["text"].splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1))
    assert store.text(runs[2].id) == f"text {runs[2].id}\n"

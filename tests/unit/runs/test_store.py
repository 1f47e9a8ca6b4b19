import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest

from nbcloud.errors import RunNotFound, StoreError, UsageError
from nbcloud.redact import Redactor
from nbcloud.runs import entries
from nbcloud.runs.record import Run, RunState, new_run_id
from nbcloud.runs.store import Store


def finished(run, state="done", **changes):
    return run.changed(state=state, finished=run.created + 1, **changes)


def files_of(store, run):
    return sorted(path.name for path in store.files(run.id).directory.iterdir())


def test_the_life_of_a_run(store, line, message):
    run = store.begin(Run(name="train", code="print(1)", tags={"a": "b"}))
    assert store.get(run.id) == run
    assert store.unfinished() == [run]
    store.append(run.id, line(1, "one\n") + line(2, "two\n"))
    running = store.update(run.id, state="running", started=run.created + 0.5, host="h")
    assert (running.state, running.host) == (RunState.RUNNING, "h")
    result = {"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3}
    store.append(run.id, message(3, "execute_result", result))
    assert [o["output_type"] for o in store.outputs(run.id)] == ["stream", "execute_result"]
    assert store.text(run.id) == "one\ntwo\n1\n"
    assert store.last_number(run.id) == 3

    end = store.finish(finished(running, execution_count=3))
    assert end.messages == store.last_number(run.id) == 3
    assert store.get(run.id) == end
    assert store.unfinished() == []
    assert files_of(store, run) == ["run.ipynb", "run.json"]
    assert store.text(run.id) == "one\ntwo\n1\n"

    notebook = nbformat.read(store.files(run.id).notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor, len(notebook.cells)) == (4, 5, 1)
    assert (notebook.cells[0].source, notebook.cells[0].execution_count) == ("print(1)", 3)
    assert Run.from_json(notebook.metadata.nbcloud) == end


def test_another_store_on_the_directory_sees_it_all(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "x"))
    with Store(store.directory) as other:
        assert other.text(run.id) == "x"
        other.append(run.id, line(2, "y"))
        other.finish(finished(run))
    assert store.get(run.id).state is RunState.DONE
    assert store.text(run.id) == "xy"


def test_a_finished_run_takes_no_more_messages_and_keeps_its_end(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "x"))
    with Store(store.directory) as other:
        end = other.finish(finished(run))
    with pytest.raises(UsageError, match="takes no more messages"):
        store.append(run.id, line(2, "late"))
    with pytest.raises(UsageError, match="takes no more messages"):
        store.append(run.id, line(2, "late"))
    assert store.finish(finished(run, "cancelled", message="?")) == end
    with pytest.raises(UsageError, match="is done and can't become running"):
        store.update(run.id, state="running")
    assert store.update(run.id, tags={"good": "yes"}).tags == {"good": "yes"}
    assert store.search(tag="good=yes") == [store.get(run.id)]
    assert store.text(run.id) == "x"


def test_an_end_through_update_finishes(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "x"))
    store.update(run.id, state="timeout", message="It took longer than 2 s.")
    assert files_of(store, run) == ["run.ipynb", "run.json"]


def test_a_lost_run_may_still_get_its_real_end(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "x"))
    store.finish(finished(run, "lost", message="The scheduler is gone."))
    assert store.unfinished() == []
    assert store.text(run.id) == "x"
    assert store.last_number(run.id) == 1
    store.append(run.id, line(2, "y"))
    assert store.text(run.id) == "xy"
    store.finish(finished(run, "failed"))
    assert store.get(run.id).state is RunState.FAILED
    assert store.text(run.id) == "xy"
    assert files_of(store, run) == ["run.ipynb", "run.json"]


def test_a_run_that_was_never_begun_here_can_be_finished(store):
    run = store.finish(finished(Run(code="1")))
    assert store.get(run.id) == run
    assert store.outputs(run.id) == []


def test_a_name_stands_for_the_newest_run_that_has_it(store):
    first, second = store.begin(Run(name="train")), store.begin(Run(name="train"))
    short = store.begin(Run(name="r"))
    assert store.get("train").id == store.get(" train ").id == second.id
    assert store.get(first.id).id == first.id
    assert store.get("r").id == short.id  # although all ids begin so
    for no_name in ("trai", "tr*", "*", "%"):
        with pytest.raises(RunNotFound):
            store.get(no_name)


def test_what_can_not_be_done_is_said(store):
    run = store.begin(Run(name="train"))
    with pytest.raises(UsageError, match="on record already"):
        store.begin(run)
    with pytest.raises(UsageError, match="not an end"):
        store.finish(run)
    with pytest.raises(UsageError, match="can't begin as done"):
        store.begin(Run(state=RunState.DONE))
    with pytest.raises(UsageError, match="Cancel it first"):
        store.delete(run.id)
    with pytest.raises(RunNotFound, match=r"no run 'r0000' on record\. %cloud runs lists them"):
        store.get("r0000")
    with pytest.raises(RunNotFound, match=f"Did you mean {run.id}"):
        store.get(f"x{run.id[1:]}")
    with pytest.raises(RunNotFound):
        store.get("../../etc")
    with pytest.raises(UsageError, match="empty"):
        store.get(" ")
    with pytest.raises(RunNotFound):
        store.update(new_run_id(), name="x")
    with pytest.raises(UsageError, match="states of a run are: queued"):
        store.search(state="finished")


def test_any_unique_beginning_finds_a_run(store):
    old = store.begin(Run(id=new_run_id(1e9)))
    new = [store.begin(Run(id=new_run_id(1.7e9 + i), name=f"n{i}")) for i in range(7)]
    assert store.get(old.id[:2]) == old
    assert store.get(new[0].id.upper()) == new[0]
    with pytest.raises(UsageError, match="More than 5 runs begin with") as caught:
        store.get(new[0].id[:5])
    assert caught.value.candidates == [run.id for run in reversed(new[2:])]
    assert "(n6)" in str(caught.value)


def test_delete_leaves_nothing(store, line):
    run = store.begin(Run(code="unique_word", tags={"a": "b"}))
    store.append(run.id, line(1, "x"))
    store.finish(finished(run))
    store.delete(run.id[:12])
    assert not store.files(run.id).directory.exists()
    assert store.search("unique_word") == store.search(tag="a") == []
    with pytest.raises(RunNotFound, match="no runs yet"):
        store.get(run.id)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_files_are_for_this_user_only(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "x"))

    def modes(directory):
        return {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir() if path.is_file()
        }

    directory = store.files(run.id).directory
    assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert set(modes(directory).values()) == set(modes(store.directory).values()) == {0o600}
    store.finish(finished(run))
    assert set(modes(directory).values()) == {0o600}


def test_no_secret_reaches_any_file(tmp_path, line):
    secret = 'hunter2"x'
    with Store(tmp_path / "data", Redactor({"PASSWORD": secret})) as store:
        run = store.begin(Run(code=f"login({secret!r})", name=secret, tags={"a": secret}))
        # Each piece is harmless; what they compose is not.
        store.append(run.id, line(1, "hunter") + line(2, '2"x\n'))
        assert store.text(run.id) == "***\n"
        store.update(run.id, message=secret, inputs=[{"name": secret}])
        store.finish(finished(store.get(run.id), error={"ename": "E", "evalue": secret}))
        assert store.text(run.id) == "***\n"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"***" in written
    assert secret.encode() not in written
    assert json.dumps(secret)[1:-1].encode() not in written


def test_no_secret_stays_in_the_messages_of_a_run(tmp_path, line):
    secret = "hunter2-and-more-7"
    with Store(tmp_path / "data", Redactor({"PASSWORD": secret, "PIN": "739152"})) as store:
        run = store.begin(Run())
        files = store.files(run.id)
        logged = {"run": "", "entries": [["param", "key", secret], ["metric", "pin", 739152.0, 0, 1.0]]}
        store.append(run.id, line(1, f"{secret}\n") + entries.line(2, 1.0, logged) + line(3, "☃\n"))
        assert secret.encode() not in files.messages.read_bytes()
        store.finish(finished(store.get(run.id)))
        assert store.text(run.id) == "***\n☃\n"
        assert secret.encode() not in files.logged.read_bytes()
        assert store.get(run.id).messages == 3
    # Made again from the files, the database has what was logged, and not the secret.
    (tmp_path / "data" / "runs.db").unlink()
    with Store(tmp_path / "data") as store:
        found = store.tracked([run.id])[run.id]
        assert (found.params, found.metrics) == ({"key": "***"}, {"pin": 739152.0})


def test_odd_values_do_not_lose_a_record(store, message):
    run = store.begin(
        Run(name="lone \ud800", code="x = '\udfff\0'", tags={"n": 1}, used={"type": int, "nan": float("nan")})
    )
    store.append(run.id, message(1, "stream", {"name": "stdout", "text": "\ud83d \0 é"}))
    store.finish(finished(run))
    assert store.get(run.id).code == run.code
    assert store.text(run.id) == "\ud83d \0 é"
    assert store.search("lone") == store.search(tag="n=1") == [store.get(run.id)]


def test_text_piece_by_piece(store, line, message):
    run = store.begin(Run())
    error = {"ename": "E", "evalue": "v", "traceback": ["\x1b[31mE\x1b[0m: v"]}
    store.append(
        run.id, line(1, "a\n") + line(2, "b") + message(3, "status", {}) + message(4, "error", error)
    )
    assert list(store.iter_text(run.id)) == [(1, "a\n"), (2, "b"), (4, "\nE: v\n")]
    assert list(store.iter_text(run.id, after=2, ansi=True)) == [(4, "\x1b[31mE\x1b[0m: v\n")]
    store.finish(finished(run))
    assert list(store.iter_text(run.id)) == [(4, "a\nb\nE: v\n")]
    assert list(store.iter_text(run.id, after=4)) == []


def test_following_a_run_to_its_end_misses_nothing(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "1\n"))
    pieces = store.iter_text(run.id, follow=True)
    assert next(pieces) == (1, "1\n")

    def go_on():
        for number in range(2, 200):
            store.append(run.id, line(number, f"{number}\n"))
        store.finish(finished(run))

    thread = threading.Thread(target=go_on)
    thread.start()
    assert [number for number, _ in pieces] == list(range(2, 200))
    thread.join()


def test_messages_that_two_recorders_both_append_count_once(store, line):
    run = store.begin(Run())
    with Store(store.directory) as other:
        store.append(run.id, line(1, "1 ") + line(2, "2 "))
        other.append(run.id, line(1, "1 "))
        store.append(run.id, line(3, "3 "))
        other.append(run.id, line(2, "2 ") + line(3, "3 ") + line(4, "4 "))
    assert store.text(run.id) == "1 2 3 4 "


def test_a_torn_last_line_is_removed_before_more_is_added(store, line):
    run = store.begin(Run())
    store.append(run.id, line(1, "one\n") + line(2, "two\n"))
    store.close()
    path = store.files(run.id).messages
    whole = path.read_bytes()
    for torn in (line(3, "three")[:-1], b"{", b"\0" * 70_000):
        path.write_bytes(whole + torn)
        assert store.text(run.id) == "one\ntwo\n"
        assert store.last_number(run.id) == 2
        assert path.read_bytes() == whole
        path.write_bytes(whole + torn)
        store.close()
        store.append(run.id, line(3, "three\n"))
        assert store.text(run.id) == "one\ntwo\nthree\n"


@pytest.mark.parametrize("size", [1, 65_000, 65_536, 200_000])
def test_the_last_number_of_long_lines(store, line, size):
    run = store.begin(Run())
    assert store.last_number(run.id) == 0
    for number in (1, 2, 3):
        store.append(run.id, line(number, "x" * size))
        assert store.last_number(run.id) == number
    store.append(run.id, b'{"n": "damaged"}\nnot json\n')
    assert store.last_number(run.id) == 3
    assert len(store.text(run.id)) == 3 * size


def test_more_runs_at_once_than_descriptors(store, line):
    runs = [store.begin(Run()) for _ in range(100)]
    for number in (1, 2):
        for run in runs:
            store.append(run.id, line(number, str(number)))
    assert {store.text(run.id) for run in runs} == {"12"}


def test_threads_share_a_store(store, line):
    failures = []

    def work():
        try:
            for _ in range(15):
                run = store.begin(Run(code="shared"))
                store.append(run.id, line(1, "x"))
                store.search("shared", limit=3)
                store.finish(finished(run))
                assert store.text(run.id) == "x"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.search("shared", limit=1000)) == 60


def test_what_arrives_while_a_run_is_being_finished_is_kept_or_refused(store, line):
    run = store.begin(Run())
    accepted = []

    def late():
        try:
            for number in range(1, 100_000):
                store.append(run.id, line(number, "x"))
                accepted.append(number)
        except UsageError:
            pass

    thread = threading.Thread(target=late)
    thread.start()
    while len(accepted) < 50:
        pass
    store.finish(finished(run))
    thread.join()
    assert len(store.text(run.id)) == len(accepted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_its_own_connection(store):
    store.begin(Run())
    child = os.fork()
    if child == 0:
        try:
            store.begin(Run(name="child"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    store.begin(Run(name="parent"))
    assert {run.name for run in store.search()} == {"", "child", "parent"}


def test_a_store_whose_folder_was_removed_begins_anew(store):
    store.begin(Run())
    for path in sorted(store.directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run = store.begin(Run())
    assert store.search() == [run]


def test_a_database_of_a_later_nbcloud_is_left_alone(store):
    store.begin(Run())
    store._database.ask(lambda connection: connection.execute("PRAGMA user_version=99"))
    store.close()
    with pytest.raises(StoreError, match=r"written by a newer nbcloud .* pip install -U nbcloud"):
        store.search()


def test_importing_the_store_is_cheap():
    heavy = [
        "nbformat",
        "jsonschema",
        "pandas",
        "numpy",
        "distributed",
        "dask",
        "IPython",
        "importlib.metadata",
    ]
    program = f"import sys, nbcloud.runs.store; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd())
    assert answer.stdout.strip() == "[]", answer.stderr

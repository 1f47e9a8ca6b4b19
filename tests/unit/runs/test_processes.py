"""Several processes on one store, and processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")


def test_many_processes_open_a_new_store_at_once(tmp_path, start_python):
    program = """
import sys
from pathlib import Path
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
directory, number = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
with Store(directory) as store:
    for i in range(10):
        run = store.begin(Run(name=f"{number}-{i}", code="together"))
        store.append(run.id, b'{"n": 1, "msg_type": "stream", "content": {"name": "stdout", "text": "x"}}\\n')
        store.finish(run.changed(state="done"))
        store.search("together", limit=2)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [start_python(program, tmp_path / "data", number, **pipes) for number in range(6)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0] * 6
    with Store(tmp_path / "data") as store:
        found = store.search("together", limit=1000)
        assert {run.name for run in found} == {f"{p}-{i}" for p in range(6) for i in range(10)}
        assert {store.text(run.id) for run in found} == {"x"}


def test_a_store_that_is_opened_twice_here_and_once_elsewhere_goes_on(tmp_path, start_python):
    with Store(tmp_path / "data") as recording:
        recording.begin(Run(name="first"))
        with Store(tmp_path / "data") as looking:  # its closing must not take the locks of the other
            assert [run.name for run in looking.search()] == ["first"]
        elsewhere = start_python(
            "import sys\nfrom pathlib import Path\nfrom nbcloud.runs.store import Store\n"
            "with Store(Path(sys.argv[1])) as store:\n    store.search()",
            tmp_path / "data",
        )
        assert elsewhere.wait(60) == 0
        recording.begin(Run(name="second"))
        with Store(tmp_path / "data") as looking:
            assert {run.name for run in looking.search()} == {"first", "second"}


# Runs ACTION in forked children, the first killed at its STEPth line inside nbcloud.runs, the next STEP lines
# later, …, until one comes to its end. Each gets a directory of its own.
KILLED_AT_EACH_LINE = """
import os, signal, sys
from pathlib import Path
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store

def line(n, text):
    return b'{"n": %d, "msg_type": "stream", "content": {"name": "stdout", "text": "%s"}}\\n' % (n, text)

def killed_at(wanted):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        path = Path(frame.f_code.co_filename)
        if path.parent.name != "runs" or path.stem not in ("store", "files", "log", "database", "index"):
            return None
        if event == "line":
            seen += 1
            if seen == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

def child(directory, wanted):
    store = Store(directory)
    PREPARE
    sys.settrace(killed_at(wanted))
    ACTION
    sys.settrace(None)
    os._exit(0)

status, wanted = 1, 0
while status:
    wanted += STEP
    pid = os.fork()
    if pid == 0:
        child(Path(sys.argv[1]) / str(wanted), wanted)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
print(wanted)
"""


def killed_at_each_line(start_python, root, prepare, action, step):
    program = (
        KILLED_AT_EACH_LINE.replace("PREPARE", prepare).replace("ACTION", action).replace("STEP", str(step))
    )
    process = start_python(program, root, stdout=subprocess.PIPE, text=True)
    answer, _ = process.communicate(timeout=150)
    assert process.returncode == 0
    points = int(answer)
    assert points > 20 * step
    for point in range(step, points + 1, step):
        with Store(root / str(point)) as store:
            yield point == points, store


BEGUN = (
    'run = store.begin(Run(name="it", code="code")); store.append(run.id, line(1, b"one ") + line(2, b"two"))'
)


def assert_done(store, run):
    assert store.get(run.id).state is RunState.DONE
    assert store.text(run.id) == "one two"
    assert store.unfinished() == []
    assert sorted(p.name for p in store.files(run.id).directory.iterdir()) == ["run.ipynb", "run.json"]
    nbformat.validate(nbformat.read(store.files(run.id).notebook, as_version=nbformat.NO_CONVERT))
    assert store.search("code") == [store.get(run.id)]


@pytest.mark.parametrize("reopened", ["finish", "tidy"])
def test_killed_while_finishing(tmp_path, start_python, reopened):
    stores = killed_at_each_line(start_python, tmp_path, BEGUN, 'store.finish(run.changed(state="done"))', 5)
    for _, store in stores:
        (run,) = store.search()
        assert run.state in (RunState.QUEUED, RunState.DONE)
        assert store.text(run.id) == "one two"
        if reopened == "finish" or run.state is RunState.QUEUED:
            assert (run in store.unfinished()) == (run.state is RunState.QUEUED)
            store.finish(run.changed(state="done"))
        else:
            store.tidy()
        assert_done(store, run)


def test_killed_while_a_lost_run_gets_its_end(tmp_path, start_python):
    prepare = 'run = store.begin(Run(name="it", code="code")); store.append(run.id, line(1, b"one "))'
    prepare += '; store.finish(run.changed(state="lost")); store.append(run.id, line(2, b"two"))'
    for _, store in killed_at_each_line(
        start_python, tmp_path, prepare, 'store.finish(run.changed(state="done"))', 5
    ):
        (run,) = store.search()
        assert run.state in (RunState.LOST, RunState.DONE)
        assert store.text(run.id) == "one two"
        store.finish(run.changed(state="done"))
        assert_done(store, run)


def test_killed_while_beginning_the_first_run_of_a_store(tmp_path, start_python):
    begin = "run = store.begin(Run(name='it', code='code'))"
    for whole, store in killed_at_each_line(start_python, tmp_path, "pass", begin, 7):
        found = store.search()
        assert len(found) <= 1
        assert not whole or len(found) == 1
        run = found[0] if found else store.begin(Run(name="it", code="code"))
        assert store.search("code") == [run]


def test_killed_while_updating_and_deleting(tmp_path, start_python):
    prepare = BEGUN + '; store.finish(run.changed(state="done"))'
    action = 'store.update(run.id, tags={"a": "b"}, name="other"); store.delete(run.id)'
    for whole, store in killed_at_each_line(start_python, tmp_path, prepare, action, 6):
        store.tidy()
        for run in store.search():
            assert not whole
            assert (run.name, run.tags) in (("it", {}), ("other", {"a": "b"}))
            store.delete(run.id)
        assert store.search("code") == []
        assert list((store.directory / "runs").iterdir()) == []


def test_killed_at_random_nothing_that_was_acknowledged_is_lost(tmp_path, start_python):
    program = """
import os, sys
from pathlib import Path
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
store = Store(Path(sys.argv[1]))
def acknowledge(run, what):
    os.write(1, f"{run.id} {what}\\n".encode())
while True:
    run = store.begin(Run(code="acknowledged"))
    acknowledge(run, "begun")
    for n in range(1, 6):
        content = b'{"name": "stdout", "text": "%s"}' % (b"x" * 20_000)
        store.append(run.id, b'{"n": %d, "msg_type": "stream", "content": %s}\\n' % (n, content))
        acknowledge(run, n)
    store.update(run.id, state="running")
    acknowledge(run, "running")
    store.finish(run.changed(state="done"))
    acknowledge(run, "done")
"""
    acknowledged = {}
    for _ in range(6):
        process = start_python(program, tmp_path / "data", stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline()]
        # Not waiting for anything: this is the random point.
        time.sleep(random.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        for line in lines:
            run_id, what = line.split()
            acknowledged.setdefault(run_id, []).append(what)
    with Store(tmp_path / "data") as store:
        for run_id, done in acknowledged.items():
            run = store.get(run_id)
            numbers = [int(what) for what in done if what.isdigit()]
            assert store.last_number(run_id) >= max(numbers, default=0)
            assert len(store.text(run_id)) == 20_000 * store.last_number(run_id)
            assert "running" not in done or run.state is not RunState.QUEUED
            assert "done" not in done or run.state is RunState.DONE
        for run in store.unfinished():
            store.finish(run.changed(state="lost"))
        assert len(store.search("acknowledged", limit=10_000)) >= len(acknowledged)


def test_a_log_is_followed_from_another_process(tmp_path, start_python, line):
    program = """
import sys
from nbcloud.runs.store import Store
with Store(sys.argv[1]) as store:
    for number, text in store.iter_text(sys.argv[2], follow=True):
        print(number, text, end="", flush=True)
"""
    with Store(tmp_path / "data") as store:
        run = store.begin(Run())
        store.append(run.id, line(1, "first\n"))
        follower = start_python(program, tmp_path / "data", run.id[:12], stdout=subprocess.PIPE, text=True)
        assert follower.stdout.readline() == "1 first\n"
        store.append(run.id, line(2, "second\n"))
        assert follower.stdout.readline() == "2 second\n"
        store.append(run.id, line(3, "third\n"))
        store.finish(run.changed(state="done"))
        assert follower.stdout.read() == "3 third\n"
        assert follower.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="must become another user")
def test_a_store_of_another_user_is_said(tmp_path):
    with Store(tmp_path / "data") as store:
        store.begin(Run())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            with Store(tmp_path / "data") as store:
                try:
                    store.search()
                except OSError as error:
                    code = 0 if "NBCLOUD_DATA_DIR" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

"""Runs are put on record behind the caller's back, in order; a disk that fails for a while loses nothing."""

import json
import subprocess
import sys
import threading

import pytest

from nbcloud import secret_values
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.runs.record import Run, RunState


def line(number, text):
    content = {"name": "stdout", "text": text}
    entry = {"n": number, "time": 1.0, "msg_type": "stream", "content": content, "metadata": {}}
    return json.dumps(entry).encode() + b"\n"


@pytest.fixture
def recorder():
    opened = Recorder()
    yield opened
    opened.close()


def test_a_run_from_its_beginning_to_its_end(recorder, tmp_path):
    run = Run(name="mine", code="1")
    recorder.begin(run, str(tmp_path))
    for number in range(1, 101):
        recorder.lines(run.id, line(number, f"{number}\n"))
    recorder.change(run.id, state=RunState.RUNNING, started=1.0)
    recorder.change(run.id, state=RunState.DONE, finished=2.0)
    assert recorder.flush()
    with open_store() as store:
        assert store.text(run.id) == "".join(f"{number}\n" for number in range(1, 101))
        assert store.get(run.id).state is RunState.DONE
        assert store.get(run.id).versions
    assert recorder.trouble == ""


def test_a_secret_given_meanwhile_is_masked(recorder, monkeypatch):
    monkeypatch.setattr(secret_values, "_known", {})
    run = Run(code="1")
    recorder.begin(run, None)
    secret_values.give({"KEY": "hunter2-and-more"})
    recorder.change(run.id, message="said hunter2-and-more")
    recorder.flush()
    with open_store() as store:
        assert store.get(run.id).message == "said ***"


FULL = """
import json, resource, signal, sys
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.runs.record import Run

def line(number, text):
    entry = {"n": number, "time": 1.0, "msg_type": "stream", "content": {"name": "stdout", "text": text}}
    return json.dumps({**entry, "metadata": {}}).encode() + b"\\n"

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recorder, run = Recorder(), Run(code="1")
recorder.begin(run, None)
recorder.lines(run.id, line(1, "one "))
recorder.flush()
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
recorder.lines(run.id, line(2, "two " + "x" * 5000))
recorder.flush()
trouble = recorder.trouble
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
recorder.lines(run.id, line(3, " three"))
recorder.flush()
with open_store() as store:
    print(json.dumps([trouble, store.text(run.id)]))
"""


def test_what_a_full_disk_refused_is_written_when_there_is_room():
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True)
    trouble, text = json.loads(done.stdout)
    assert trouble
    assert text == "one two " + "x" * 5000 + " three"


def test_many_threads_and_one_order_each(recorder):
    runs = [Run(code=str(number)) for number in range(4)]

    def write(run):
        recorder.begin(run, None)
        for number in range(1, 51):
            recorder.lines(run.id, line(number, f"{number} "))

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.flush()
    with open_store() as store:
        for run in runs:
            assert store.text(run.id) == "".join(f"{number} " for number in range(1, 51))


def test_a_recorder_that_was_closed_begins_again(recorder):
    first, second = Run(code="1"), Run(code="2")
    recorder.begin(first, None)
    recorder.close()
    recorder.begin(second, None)
    assert recorder.flush()
    with open_store() as store:
        assert {run.id for run in store.search()} == {first.id, second.id}

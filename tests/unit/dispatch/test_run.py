"""A run as its asker holds it."""

import json

import pytest

from nbcloud.dispatch.recorder import Recorder
from nbcloud.dispatch.run import CloudRun
from nbcloud.runs.record import Run


class NoLink:
    """Of a run whose messages are given by hand."""

    def forget(self, run, listener):
        pass


def messages(first, last):
    lines = [
        {
            "n": number,
            "time": 5.0,
            "msg_type": "stream",
            "metadata": {},
            "content": {"name": "stdout", "text": f"{number}\n"},
        }
        for number in range(first, last + 1)
    ]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return {"op": "messages", "first": first, "last": last, "lines": text}


@pytest.fixture
def run():
    recorder = Recorder()
    record = Run(code="1")
    recorder.begin(record, "")
    yield CloudRun(NoLink(), record, recorder, whole=True)
    recorder.close()


def text_of(run):
    found, _ = run.take(0.0)
    return "".join(message["content"]["text"] for message in found)


def test_what_is_meant_for_a_reader_that_is_further_on_leaves_no_gap(run):
    run.listen(messages(7, 9))
    run.listen(messages(1, 8))
    run.listen(messages(9, 10))
    whole = "".join(f"{number}\n" for number in range(1, 11))
    assert text_of(run) == whole
    assert run.text() == whole, "and on record"


def test_an_end_counts_when_all_that_was_said_before_it_has_come(run):
    end = {"op": "end", "state": "done", "why": "", "last": 3, "content": b"", "exit_code": None}
    run.listen(messages(1, 2))
    run.listen(end)
    assert not run.done()
    run.listen(messages(3, 3))
    run.listen(end)
    assert run.done()
    assert run.state == "done"

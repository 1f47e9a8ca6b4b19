"""Each message once: on record, and to whoever shows them, who need not have time for all."""

import json

import pytest

from nbcloud.dispatch import feed as feed_module
from nbcloud.dispatch.feed import SKIPPED, Feed
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.runs.record import Run

NEVER = 0.0


def lines(first, last, text="x"):
    """Messages of these numbers, each of which prints its own."""
    entries = (
        {
            "n": number,
            "time": 5.0,
            "msg_type": "stream",
            "metadata": {},
            "content": {"name": "stdout", "text": f"{number}{text}\n"},
        }
        for number in range(first, last + 1)
    )
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


@pytest.fixture
def feed():
    recorder = Recorder()
    run = Run(code="1")
    recorder.begin(run, "")
    feed = Feed(run.id, recorder, 2, lambda message: feed.noted.append(message["n"]))
    feed.noted = []

    def recorded():
        recorder.flush()
        with open_store() as store:
            return store.text(run.id)

    feed.recorded = recorded
    yield feed
    recorder.close()


def test_what_comes_twice_is_given_once_and_recorded_from_where_the_record_ended(feed):
    feed.add(3, lines(1, 3))
    feed.add(3, lines(1, 3))
    feed.add(5, lines(2, 5))
    messages, event = feed.take(NEVER)
    assert [message["n"] for message in messages] == feed.noted == [1, 2, 3, 4, 5]
    assert event is None
    assert feed.last == 5
    assert feed.recorded() == "3x\n4x\n5x\n"


def test_an_event_stands_behind_the_messages_that_came_before_it(feed):
    feed.add(1, lines(1, 1))
    feed.say(("end", None))
    messages, event = feed.take(NEVER)
    assert ([message["n"] for message in messages], event) == ([1], ("end", None))
    assert feed.take(NEVER) == ([], None)


def test_who_is_far_behind_gets_the_last_text_and_the_record_all(feed, monkeypatch):
    monkeypatch.setattr(feed_module, "_LIVE_BYTES", 1000)
    feed.add(10, lines(1, 10, "x" * 200))
    feed.add(20, lines(11, 20, "y" * 1000))
    messages, _ = feed.take(NEVER)
    assert [message.get("n", 0) for message in messages] == [*range(1, 11), 0]
    skipped = messages[-1]
    assert skipped["msg_type"] == SKIPPED
    assert skipped["content"]["lines"] == 10
    assert skipped["content"]["tail"].endswith("20" + "y" * 1000 + "\n")
    assert feed.recorded().count("\n") == 18
    feed.add(21, lines(21, 21))
    assert [message["n"] for message in feed.take(NEVER)[0]] == [21], "who has caught up sees all again"

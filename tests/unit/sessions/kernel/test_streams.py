"""What a kernel writes goes out in order, whole, and without secrets."""

import asyncio
import os
import random
import threading
import time

import pytest
import zmq
from ipykernel.iostream import IOPubThread
from jupyter_client.session import Session

from nbcloud.redact import MASK, Redactor
from nbcloud.sessions.kernel import streams as streams_module
from nbcloud.sessions.kernel.blackbox import POSITION_KEY, SIZE, BlackBox, Reader
from nbcloud.sessions.kernel.streams import OrderedOutStream

SECRET = "hunter2-and-more"


class Streams:
    """Both streams of a process, and what a reader of its iopub gets."""

    def __init__(self):
        self._context = zmq.Context()
        self._reader = self._context.socket(zmq.SUB)
        self._reader.subscribe(b"")
        publisher = self._context.socket(zmq.PUB)
        publisher.sndhwm = self._reader.rcvhwm = 0
        publisher.bind("inproc://iopub")
        self._reader.connect("inproc://iopub")
        self._thread = IOPubThread(publisher)
        self._thread.start()
        self._session = Session()
        self.stdout, self.stderr = (
            OrderedOutStream(self._session, self._thread, name, watchfd=False)
            for name in ("stdout", "stderr")
        )

    def comes(self, within):
        """Whether a message comes within so many seconds, of itself."""
        return bool(self._reader.poll(within * 1000))

    def read(self):
        """Messages up to now."""
        self.stdout.flush()
        found = []
        while self._reader.poll(100):
            _, parts = self._session.feed_identities(self._reader.recv_multipart())
            found.append(self._session.deserialize(parts))
        return found

    async def _cancel_tasks(self):
        """ipykernel leaves one behind, about which asyncio complains."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self):
        self.stdout.flush()
        loop = self._thread.io_loop.asyncio_loop
        asyncio.run_coroutine_threadsafe(self._cancel_tasks(), loop).result(10)
        self._thread.stop()
        self._thread.close()
        self._reader.close(0)
        self._context.term()


@pytest.fixture(scope="module")
def process_streams():
    opened = Streams()
    yield opened
    opened.close()


@pytest.fixture
def streams(process_streams):
    yield process_streams
    for stream in (process_streams.stdout, process_streams.stderr):
        stream.redact_with(Redactor())
    process_streams.read()
    OrderedOutStream.backlog.black_box = None


def texts(messages):
    return [(message["content"]["name"], message["content"]["text"]) for message in messages]


def text_of(messages):
    return "".join(text for _, text in texts(messages))


def test_the_two_streams_keep_their_order(streams):
    for number in range(50):
        streams.stdout.write(f"out {number}\n")
        streams.stderr.write(f"err {number}\n")
    assert text_of(streams.read()) == "".join(f"out {n}\nerr {n}\n" for n in range(50))


def test_text_of_one_stream_is_joined(streams):
    for _ in range(1000):
        streams.stdout.write("x")
    assert len(streams.read()) < 20


def test_a_line_is_not_sent_without_its_end_when_that_comes_soon(streams, monkeypatch):
    monkeypatch.setattr(streams_module, "_LINE", 5.0)
    streams.stdout.write("47854")
    assert not streams.comes(within=0.2)
    streams.stdout.write("\n")
    assert [message["content"]["text"] for message in streams.read()] == ["47854\n"]


def test_a_line_without_an_end_is_sent_at_last(streams):
    streams.stdout.write("no end")
    assert streams.comes(within=10)


def test_threads_lose_nothing(streams):
    def write(mark):
        for _ in range(500):
            streams.stdout.write(mark)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(text_of(streams.read())) == sorted("abcd" * 500)


@pytest.mark.parametrize("seed", range(5))
def test_a_secret_never_leaves_split_anywhere(streams, seed):
    chance = random.Random(seed)
    streams.stdout.redact_with(Redactor({"S": SECRET}))
    text = "".join(chance.choice([SECRET, SECRET[:7], "plain ", "hunter"]) for _ in range(40))
    rest = text
    while rest:
        size = chance.randrange(1, 9)
        streams.stdout.write(rest[:size])
        rest = rest[size:]
        if chance.random() < 0.2:
            streams.stdout.flush()
    streams.stdout.drain()
    shown = text_of(streams.read())
    assert SECRET not in shown
    assert shown == text.replace(SECRET, MASK)


def test_threads_with_a_secret_to_keep_lose_nothing(streams):
    streams.stdout.redact_with(Redactor({"S": SECRET}))

    def write():
        for _ in range(300):
            streams.stdout.write("hunter.")  # ends, for a moment, as the secret begins
            streams.stdout.write("h")
            streams.stdout.write(".")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    streams.stdout.drain()
    assert len(text_of(streams.read())) == 4 * 300 * 9


def test_while_the_end_is_drained_no_thread_gets_a_secret_out(streams):
    streams.stdout.redact_with(Redactor({"S": SECRET}))
    stop = threading.Event()

    def write():
        while not stop.is_set():
            streams.stdout.write(SECRET + " ")

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(300):
        streams.stdout.drain()
    stop.set()
    writer.join()
    streams.stdout.drain()
    shown = text_of(streams.read())
    assert SECRET not in shown
    assert MASK in shown


def test_what_is_held_back_survives_a_new_list_of_secrets(streams):
    streams.stdout.redact_with(Redactor({"S": SECRET}))
    streams.stdout.write("the word is hunter")
    streams.stdout.redact_with(Redactor({"S": SECRET, "T": "another-one"}))
    streams.stdout.write("!\n")
    assert text_of(streams.read()) == "the word is hunter!\n"


def test_write_answers_with_what_it_was_given(streams):
    streams.stdout.redact_with(Redactor({"S": SECRET}))
    assert streams.stdout.write("hunter2") == 7
    assert streams.stdout.write("") == 0
    with pytest.raises(TypeError, match="must be str"):
        streams.stdout.write(b"bytes")


def test_messages_and_black_box_together_have_everything_once(streams, tmp_path):
    reader = Reader(tmp_path / "box")
    OrderedOutStream.backlog.black_box = BlackBox(tmp_path / "box")
    streams.stdout.redact_with(Redactor({"S": SECRET}))
    for number in range(100):
        streams.stdout.write(f"line {number} é {SECRET}\n")
    sent = streams.read()
    reached = max(message["metadata"].get(POSITION_KEY, 0) for message in sent)
    with OrderedOutStream.backlog.lock:  # the IO thread can't send more: as after a crash
        for number in range(100, 120):
            streams.stdout.write(f"line {number} é {SECRET}\n")
        reader.take(reached)
        unsent = reader.unread()
    everything = text_of(sent) + "".join(text for _, text in unsent)
    assert everything == "".join(f"line {number} é {MASK}\n" for number in range(120))
    assert SECRET.encode() not in (tmp_path / "box").read_bytes()
    assert reader.written > reached


def test_a_writer_waits_for_a_host_that_is_half_a_ring_behind(streams, tmp_path):
    reader = Reader(tmp_path / "box")
    OrderedOutStream.backlog.black_box = BlackBox(tmp_path / "box")
    lines = SIZE // 10_000
    writer = threading.Thread(target=lambda: [streams.stdout.write("x" * 9999 + "\n") for _ in range(lines)])
    writer.start()
    while reader.written <= SIZE // 2:
        assert writer.is_alive()
        time.sleep(0.01)
    writer.join(0.5)  # it would be done by now
    assert writer.is_alive()
    assert reader.written < SIZE * 0.6
    while writer.is_alive():
        reader.take(reader.written)
        writer.join(0.01)
    assert len(text_of(streams.read())) == lines * 10_000


def test_a_forked_childs_print_does_not_repeat_what_the_parent_had_waiting(streams):
    with OrderedOutStream.backlog.lock:
        streams.stdout.write("parent\n")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert text_of(streams.read()) == "parent\n"

"""What a worker does with the runs of a session; its kernel is one that the tests play."""

import asyncio
import json
import threading

import pytest

from nbcloud.sessions.channel import Channel
from nbcloud.sessions.host import run as run_module
from nbcloud.sessions.host import session as session_module
from nbcloud.sessions.host.process import Frames
from nbcloud.sessions.host.run import HostedRun
from nbcloud.sessions.host.session import HostedSession
from nbcloud.sessions.messages import DONE


class PlayedKernel:
    """Takes requests, and says what the test has it say."""

    pid = 1

    def __init__(self):
        self.requests, self.said = [], asyncio.Queue()
        self.interrupts = self.kills = self.shutdowns = 0
        self.ended = asyncio.Event()

    async def messages(self):
        batch = [await self.said.get()]
        while not self.said.empty():
            batch.append(self.said.get_nowait())
        return batch

    def messages_now(self):
        return []

    def unsent(self):
        return []

    def send(self, frames):
        self.requests.append(json.loads(frames.header)["msg_id"])

    def mark(self):
        pass

    async def interrupt(self):
        self.interrupts += 1

    def shut_down(self):
        self.shutdowns += 1

    def kill(self):
        self.kills += 1
        self.ended.set()

    def close(self):
        pass

    def last_words(self):
        return ""

    def say(self, kind, content, parent):
        parent = {"msg_id": parent, "msg_type": "execute_request"}
        frames = Frames(b"{}", json.dumps(parent).encode(), b"{}", json.dumps(content).encode(), [])
        self.said.put_nowait((frames, {"msg_type": kind}, parent))

    def print(self, run, text):
        self.say("stream", {"name": "stdout", "text": text}, run)

    def done(self, run, status="ok", **more):
        self.say(DONE, {"run": run, "status": status, **more}, run)

    def reply(self, run):
        self.say("execute_reply", {"status": "ok"}, run)


class Reader(Channel):
    """A channel that keeps what is posted to it."""

    def __init__(self, *, connected=True):
        super().__init__(lambda message: None)
        self.got = []
        self.is_connected = connected

    @property
    def connected(self):
        return self.is_connected

    def post(self, message, *, within=0.0):
        self.got.append(message)

    async def expect(self, operation, **fields):
        async with asyncio.timeout(5):
            while True:
                for message in self.got:
                    if message["op"] == operation and fields.items() <= message.items():
                        return message
                await asyncio.sleep(0.001)

    def lines(self, run):
        batches = [m["lines"] for m in self.got if m["op"] == "messages" and m["run"] == run]
        return [json.loads(line) for lines in batches for line in lines.splitlines()]


class Stage:
    """A session, its kernel and its journal."""

    async def __aenter__(self):
        self.kernel, self.journal, self.ended = PlayedKernel(), Reader(), threading.Event()
        self.tasks = []
        self.session = HostedSession(
            "s-1", self.kernel, None, self.ended, journal=self.journal, spawn=self.spawn, facts={}
        )
        return self

    def spawn(self, work):
        self.tasks.append(asyncio.ensure_future(work))
        return self.tasks[-1]

    async def __aexit__(self, *error):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def execute(self, run, reader=None, timeout=None):
        header = json.dumps({"msg_id": run}).encode()
        frames = {"header": header, "parent": b"{}", "metadata": b"{}", "content": b"{}", "buffers": []}
        about = {"run": run, "session": "s-1", "client": "c", "timeout": timeout}
        self.session.execute({**about, **frames}, reader)


def on_stage(scenario):
    async def main():
        async with Stage() as stage:
            await scenario(stage)

    asyncio.run(main())


def test_runs_go_one_after_the_other_and_each_has_numbers_of_its_own():
    async def scenario(stage):
        stage.execute("one")
        stage.execute("two")
        assert stage.kernel.requests == ["one"]
        stage.kernel.print("one", "a")
        stage.kernel.done("one")
        await stage.journal.expect("end", run="one", state="done")
        assert stage.kernel.requests == ["one", "two"]
        stage.kernel.reply("one")  # comes when the next one has begun already
        stage.kernel.print("two", "b")
        stage.kernel.done("two", "error")
        await stage.journal.expect("end", run="two", state="failed")
        for run in ("one", "two"):
            lines = stage.journal.lines(run)
            assert [line["n"] for line in lines] == [1, 2, 3]
            assert [line["msg_type"] for line in lines] == ["nbcloud_started", "stream", "nbcloud_finished"]

    on_stage(scenario)


def test_a_reader_of_its_own_and_the_journal_get_the_same():
    async def scenario(stage):
        reader = Reader()
        stage.execute("one", reader)
        stage.kernel.print("one", "a")
        stage.kernel.done("one")
        end = await reader.expect("end", run="one")
        assert reader.lines("one") == stage.journal.lines("one")
        assert end["last"] == 3
        assert end["last"] == (await stage.journal.expect("end"))["last"]

    on_stage(scenario)


def test_a_reader_that_takes_nothing_is_left_to_the_journal(monkeypatch):
    monkeypatch.setattr(run_module, "_READER_SECONDS", 0.05)

    async def scenario(stage):
        reader = Reader()
        reader._light.clear()
        stage.execute("one", reader)
        stage.kernel.print("one", "a")
        await reader.expect("detached", run="one")
        stage.kernel.done("one")
        await stage.journal.expect("end", run="one")
        assert not [message for message in reader.got if message["op"] == "end"]
        assert len(stage.journal.lines("one")) == 3

    on_stage(scenario)


@pytest.mark.parametrize("direct", [False, True])
def test_a_run_that_lacks_values_keeps_its_place_until_it_has_them(direct):
    async def scenario(stage):
        reader = Reader(connected=direct)
        stage.execute("one", reader)
        stage.execute("two")
        stage.kernel.done("one", "missing", missing=["hash"])
        assert (await stage.journal.expect("missing", run="one"))["told"] is direct
        assert bool([m for m in reader.got if m["op"] == "missing"]) is direct
        assert stage.kernel.requests == ["one"]
        stage.execute("one")
        assert stage.kernel.requests == ["one", "one"]
        stage.kernel.reply("one")  # of its first try
        stage.kernel.print("one", "a")
        stage.kernel.done("one")
        await stage.journal.expect("end", run="one", state="done")
        assert [line["n"] for line in stage.journal.lines("one")] == [1, 2, 3]
        assert stage.kernel.requests == ["one", "one", "two"]

    on_stage(scenario)


@pytest.mark.parametrize("operation", ["interrupt", "stop"])
def test_a_run_that_lacks_values_can_be_stopped(operation):
    async def scenario(stage):
        stage.execute("one")
        stage.execute("two")
        stage.kernel.done("one", "missing", missing=["hash"])
        await stage.journal.expect("missing", run="one")
        if operation == "stop":
            stage.session.stop("one", "cancelled", "it was cancelled")
        else:
            stage.session.interrupt("one")
        await stage.journal.expect("end", run="one", state="cancelled")
        assert stage.kernel.requests == ["one", "two"]

    on_stage(scenario)


def test_a_run_that_nobody_will_complete_lets_the_others_go_on():
    async def scenario(stage):
        stage.execute("one")
        stage.execute("two")
        stage.session.give_up("one")  # it lacks nothing
        stage.kernel.done("one", "missing", missing=["hash"])
        await stage.journal.expect("missing", run="one")
        stage.session.give_up("one")
        await stage.journal.expect("end", run="one", state="lost")
        assert stage.kernel.requests == ["one", "two"]

    on_stage(scenario)


def test_the_same_request_by_two_ways_is_one_run():
    async def scenario(stage):
        stage.execute("one")
        stage.execute("one")
        stage.execute("two")
        stage.execute("two")
        stage.kernel.done("one")
        stage.kernel.done("two")
        await stage.journal.expect("end", run="two")
        stage.execute("one")  # of one who does not know yet that it is over
        assert stage.kernel.requests == ["one", "two"]
        assert stage.session.missing_of(["one", "two", "three"]) == ["three"]

    on_stage(scenario)


@pytest.mark.parametrize("operation", ["interrupt", "stop"])
def test_a_run_that_waits_is_withdrawn(operation):
    async def scenario(stage):
        stage.execute("one")
        stage.execute("two")
        if operation == "stop":
            stage.session.stop("two", "cancelled", "it was cancelled")
        else:
            stage.session.interrupt("two")
        end = await stage.journal.expect("end", run="two")
        assert end["state"] == "cancelled"
        assert "before it began" in end["why"]
        assert stage.kernel.interrupts == 0
        stage.kernel.done("one")
        await stage.journal.expect("end", run="one")
        assert stage.kernel.requests == ["one"]

    on_stage(scenario)


def test_a_run_that_does_not_stop_when_interrupted_ends_with_its_kernel(monkeypatch):
    monkeypatch.setattr(session_module, "GRACE", 0.05)

    async def scenario(stage):
        stage.execute("one", timeout=0.05)
        await asyncio.wait_for(stage.kernel.ended.wait(), 5)
        assert stage.kernel.interrupts == 1
        await stage.session.end(-9)
        end = await stage.journal.expect("end", run="one")
        assert end["state"] == "timeout"
        assert "did not stop when interrupted" in end["why"]
        assert stage.ended.is_set()

    on_stage(scenario)


def test_a_session_that_runs_nothing_has_its_time_to_end_by_itself(monkeypatch):
    monkeypatch.setattr(session_module, "GRACE", 0.05)

    async def scenario(stage):
        stage.session.close("it was reset")
        assert (stage.kernel.shutdowns, stage.kernel.kills) == (1, 0)
        await asyncio.wait_for(stage.kernel.ended.wait(), 5)  # which it did not take
        await stage.session.end(-9)
        assert (await stage.journal.expect("lost"))["why"] == "it was reset"

    on_stage(scenario)


def test_a_session_that_is_closed_while_it_runs_ends_at_once():
    async def scenario(stage):
        stage.execute("one")
        stage.session.close("it was reset")
        assert (stage.kernel.shutdowns, stage.kernel.kills) == (0, 1)
        await stage.session.end(-9)
        assert (await stage.journal.expect("end", run="one"))["state"] == "lost"

    on_stage(scenario)


def test_a_kernel_that_answers_nothing_ends_the_run():
    async def scenario(stage):
        stage.execute("one")
        stage.kernel.reply("one")
        end = await stage.journal.expect("end", run="one")
        assert end["state"] == "lost"
        assert "without an answer" in end["why"]

    on_stage(scenario)


def test_the_end_of_a_kernel_ends_all_runs_and_says_which_had_begun():
    async def scenario(stage):
        stage.execute("one")
        stage.execute("two")
        await stage.session.end(-11)
        assert "crashed (SIGSEGV)" in (await stage.journal.expect("end", run="one"))["why"]
        assert "before it began" in (await stage.journal.expect("end", run="two"))["why"]
        assert (await stage.journal.expect("lost"))["code"] == -11

    on_stage(scenario)


def test_numbers_go_on_over_many_messages():
    journal = Reader()
    request = {"run": "r", "session": "s", "client": "c", "timeout": None, "header": b'{"msg_id": "m"}'}
    run = HostedRun(
        {**request, "parent": b"{}", "metadata": b"{}", "content": b"{}", "buffers": []}, journal, None
    )
    for _ in range(3):
        run.say([(1.0, "stream", b"{}", b"{}", []), (1.0, "display_data", b"{}", b"{}", [b"png"])])
    assert [line["n"] for line in journal.lines("r")] == [1, 2, 3, 4, 5, 6]
    assert [(m["first"], m["last"]) for m in journal.got] == [(1, 2), (3, 4), (5, 6)]


def test_what_a_callback_showed_comes_before_the_answer_that_it_is_over():
    async def scenario(stage):
        header = json.dumps({"msg_id": "click"}).encode()
        stage.session.comm(Frames(header, b"{}", b"{}", b"{}", []), "ask-1")
        # All at once, as on a busy machine: a page drops what comes behind the end of its message.
        stage.kernel.say("comm_msg", {"data": {"state": {"msg_id": "click"}}}, "click")
        stage.kernel.print("click", "3 squared is 9")
        stage.kernel.say("status", {"execution_state": "idle"}, "click")
        stage.kernel.print("thread", "later")
        await stage.journal.expect("answer", ask="ask-1")
        said = [[m["op"], *(item[1] for item in m.get("items", ()))] for m in stage.journal.got]
        assert said == [["outside", "comm_msg", "stream"], ["answer"], ["outside", "stream"]]

    on_stage(scenario)

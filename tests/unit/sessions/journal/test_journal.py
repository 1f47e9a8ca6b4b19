"""A real scheduler with the journal; its clients and one worker's host are channels that the tests hold."""

import asyncio
import json
import math
import time
from pathlib import Path

import pytest
from distributed import Scheduler
from distributed.comm import connect

from nbcloud.sessions.channel import PROTOCOL, Channel
from nbcloud.sessions.host.process import Frames
from nbcloud.sessions.host.run import HostedRun
from nbcloud.sessions.journal import journal as journal_module
from nbcloud.sessions.journal import table as table_module
from nbcloud.sessions.journal.journal import PLUGIN, Journal
from nbcloud.sessions.journal.members import LiveSession


class Peer:
    """A client or a host, over a real connection to the scheduler."""

    def __init__(self, house, operation, **facts):
        self.house, self.operation, self.facts = house, operation, facts
        self.got = []
        self.channel = Channel(self.got.append)
        self.welcome = {}
        self.task = None
        self.asks = 0

    async def connect(self):
        comm = await connect(self.house.scheduler.address)
        hello = {"protocol": PROTOCOL, "received": self.channel.received, **self.facts}
        await comm.write({"op": self.operation, "reply": False, "hello": hello})
        self.welcome = await comm.read()
        if self.welcome.get("forgotten"):
            comm.abort()
        else:
            self.task = asyncio.create_task(self.channel.run(comm, self.welcome["received"]))
            await asyncio.sleep(0)
        return self

    async def leave(self):
        self.channel.abort()
        await self.task

    async def expect(self, operation, **fields):
        """Wait for the first message of this kind, and take it."""

        def fits(message):
            return message["op"] == operation and fields.items() <= message.items()

        async with asyncio.timeout(10):
            while not any(map(fits, self.got)):
                await asyncio.sleep(0.002)
        found = next(message for message in self.got if fits(message))
        self.got.remove(found)
        return found

    async def ask(self, operation, **fields):
        self.asks += 1
        name = f"{id(self)}-{self.asks}"
        self.channel.post({"op": operation, "ask": name, **fields})
        return await self.expect("answer", ask=name)


class House:
    """The scheduler, with one host and one session in it."""

    def __init__(self, directory):
        self.directory = directory
        self.peers = []
        self.runs = {}

    async def __aenter__(self):
        self.scheduler = await Scheduler(
            host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"
        )
        self.journal = Journal(str(self.directory), 10_000)
        await self.scheduler.register_scheduler_plugin(plugin=self.journal, name=PLUGIN, idempotent=True)
        self.host = await self.peer(
            "nbcloud_host", id="h", worker="w1", name="w1", host="machine", spool="", token=""
        )
        self.session = LiveSession(
            "s-1", "s", "nb.ipynb", {}, 0.0, host=self.journal.table.hosts["w1"], state="ready"
        )
        self.journal.table.sessions["s-1"] = self.session
        return self

    async def __aexit__(self, *error):
        for peer in self.peers:
            peer.channel.abort()
        await asyncio.gather(*(peer.task for peer in self.peers if peer.task))
        await self.scheduler.close()

    async def peer(self, operation, **facts):
        self.peers.append(Peer(self, operation, **facts))
        return await self.peers[-1].connect()

    async def client(self, name):
        return await self.peer("nbcloud_client", id=name)

    async def begin(self, run):
        """The host gives a run to its kernel."""
        request = await self.host.expect("execute", run=run)
        self.runs[run] = HostedRun(request, self.host.channel, None)
        self.runs[run].begin({"session": "s-1"})

    def say(self, run, *texts):
        """The kernel prints."""
        texts = [json.dumps({"name": "stdout", "text": text}).encode() for text in texts]
        self.runs[run].say([(1.0, "stream", text, b"{}", []) for text in texts])

    def finish(self, run, state="done"):
        self.runs[run].end({"state": state, "why": "", "exit_code": None}, None)


def in_house(tmp_path, scenario):
    async def main():
        async with House(tmp_path) as house:
            await scenario(house)

    asyncio.run(main())


async def all_lines(client, run):
    """Lines of a run up to its end."""
    end = await client.expect("end", run=run)
    batches = [m for m in client.got if m["op"] == "messages" and m["run"] == run]
    lines = [json.loads(line) for batch in batches for line in batch["lines"].splitlines()]
    return lines, end


FRAMES = {"header": b'{"msg_id": "m"}', "parent": b"{}", "metadata": b"{}", "content": b"{}", "buffers": []}
REQUEST = {"session": "s-1", "timeout": None, **FRAMES}
MISSING = Frames(b"{}", b"{}", b"{}", b'{"missing": ["hash"]}', [])


class Told:
    connected = True

    def post(self, message, *, within=0.0):
        pass


def start(client, run):
    client.channel.post({"op": "run", "ask": "", "run": run, **REQUEST})


def test_a_run_is_numbered_without_gaps_and_ends(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        for number in range(500):
            house.say("r", f"{number}\n" + "x" * 100)
        house.finish("r")
        lines, end = await all_lines(client, "r")
        assert [line["n"] for line in lines] == list(range(1, 503))
        assert end["state"] == "done"
        assert not house.journal.busy
        assert (tmp_path / "r.jsonl").stat().st_mode & 0o777 == 0o600

    in_house(tmp_path, scenario)


def test_a_second_reader_of_the_same_client_takes_over_and_the_run_goes_on(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        house.say("r", "before\n")
        await client.expect("messages", last=2)
        await client.ask("read", run="r", after=0)
        house.say("r", "after\n")
        house.finish("r")
        end = await client.expect("end")
        assert end["state"] == "done"  # and not "running", by the reader that was replaced
        assert not [m for m in client.got if m["op"] == "end"]

    in_house(tmp_path, scenario)


def test_one_who_comes_back_reads_on_where_it_was(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        for number in range(200):
            house.say("r", f"{number}\n")
            if number % 40 == 39:
                await client.leave()
                await client.connect()
        house.finish("r")
        lines, _ = await all_lines(client, "r")
        assert [line["n"] for line in lines] == list(range(1, 203))

    in_house(tmp_path, scenario)


def test_a_run_whose_session_went_away_on_its_way_is_answered(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        house.journal.table.lose(house.session, "its worker is gone")
        start(client, "r")
        end = await client.expect("end", run="r")
        assert end["state"] == "lost"
        assert end["why"] == "its worker is gone"
        assert end["refused"]
        assert (await client.expect("session_lost", session="s-1"))["why"] == "its worker is gone"

    in_house(tmp_path, scenario)


def test_a_lost_session_answers_all_who_wait_for_it(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        start(client, "active")
        start(client, "queued")
        await house.begin("active")
        question = asyncio.create_task(client.ask("call", session="s-1"))
        await house.host.expect("call")
        house.journal.remove_worker(house.scheduler, "w1")
        assert "its worker is gone" in (await question)["error"]
        for run in ("active", "queued"):
            assert "its worker is gone" in (await client.expect("end", run=run))["why"]

    in_house(tmp_path, scenario)


def test_a_handler_that_fails_is_an_answer_and_the_connection_stays(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        answer = await client.ask("read", run={"not": "a name"}, after=0)
        assert "unhashable" in answer["error"]
        assert "does not know" in (await client.ask("dance"))["error"]
        assert (await client.ask("ping"))["answer"] is None

    in_house(tmp_path, scenario)


@pytest.mark.parametrize("operation", ["interrupt", "stop"])
def test_what_stops_a_run_names_it_so_that_the_next_one_is_not_hit(tmp_path, operation):
    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        client.channel.post({"op": operation, "run": "r", "state": "cancelled", "why": "enough", "ask": ""})
        assert (await house.host.expect(operation))["run"] == "r"

    in_house(tmp_path, scenario)


def test_a_run_that_went_straight_to_its_host_is_kept_and_can_be_read(tmp_path):
    async def scenario(house):
        client, other = await house.client("c"), await house.client("other")
        direct = HostedRun({**REQUEST, "run": "r", "client": "c"}, house.host.channel, None)
        house.runs["r"] = direct
        direct.begin({"session": "s-1"})  # this may come before its client's word about it
        house.say("r", "one\n")
        await client.ask("ping")
        client.channel.post({"op": "announce", "run": "r", "session": "s-1", "anew": False, "ask": ""})
        await other.ask("read", run="r", after=0)
        house.finish("r")
        lines, end = await all_lines(other, "r")
        assert [line["n"] for line in lines] == [1, 2, 3]
        assert end["state"] == "done"
        assert not [message for message in client.got if message["op"] in {"messages", "end"}]

    in_house(tmp_path, scenario)


def test_the_client_of_a_run_that_went_straight_to_its_host_hears_of_the_loss(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        client.channel.post({"op": "announce", "run": "r", "session": "s-1", "anew": False, "ask": ""})
        await client.ask("ping")
        house.journal.remove_worker(house.scheduler, "w1")
        await client.expect("ended", run="r")
        await client.ask("read", run="r", after=0)
        lines, end = await all_lines(client, "r")
        assert lines[-1]["msg_type"] == "nbcloud_finished"
        assert end["state"] == "lost"

    in_house(tmp_path, scenario)


def test_a_run_that_lacks_values_is_sent_again_with_them(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        house.runs["r"].lack(MISSING)
        assert (await client.expect("missing", run="r"))["content"] == MISSING.content
        start(client, "r")
        assert (await house.host.expect("execute"))["run"] == "r"
        house.finish("r")
        lines, _ = await all_lines(client, "r")
        assert [line["msg_type"] for line in lines] == ["nbcloud_started", "nbcloud_finished"]

    in_house(tmp_path, scenario)


def test_a_run_that_lacks_values_of_one_who_is_gone_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_GONE_SECONDS", 0.05)

    async def scenario(house):
        gone = await house.client("gone")
        start(gone, "r")
        await house.begin("r")
        house.runs["r"].lack(MISSING)
        await gone.expect("missing")
        await gone.leave()
        assert (await house.host.expect("give_up"))["run"] == "r"

    in_house(tmp_path, scenario)


def test_one_who_reads_on_is_asked_again_for_what_a_run_lacks(tmp_path):
    async def scenario(house):
        client, other = await house.client("c"), await house.client("other")
        start(client, "r")
        await house.begin("r")
        house.runs["r"]._reader = Told()  # a shortcut that breaks with the question
        house.runs["r"].lack(MISSING)
        await client.ask("ping")
        async with asyncio.timeout(5):
            while not house.journal.table.runs["r"].missing:
                await asyncio.sleep(0.002)
        await other.ask("read", run="r", after=0)
        await client.ask("read", run="r", after=1)
        assert (await client.expect("missing", run="r"))["content"] == MISSING.content
        assert not [message for message in other.got if message["op"] == "missing"]

    in_house(tmp_path, scenario)


def test_a_run_that_is_over_is_not_run_again(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        house.finish("r")
        await client.expect("end", run="r")
        start(client, "r")
        await client.ask("ping")
        assert not [message for message in house.host.got if message["op"] == "execute"]
        house.host.channel.post({"op": "begun", "run": "r", "session": "s-1", "client": "c"})
        assert [run["state"] for run in (await client.ask("runs"))["answer"]] == ["done"]
        assert not house.journal.busy

    in_house(tmp_path, scenario)


def test_a_run_that_was_announced_and_never_came_ends_with_its_client(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_GONE_SECONDS", 0.05)

    async def scenario(house):
        gone, other = await house.client("gone"), await house.client("other")
        gone.channel.post({"op": "announce", "run": "r", "session": "s-1", "anew": False, "ask": ""})
        await gone.ask("ping")
        await gone.leave()
        asked = await house.host.expect("known")
        house.host.channel.post({"op": "unknown", "session": "s-1", "runs": asked["runs"]})
        await other.ask("read", run="r", after=0)
        assert (await other.expect("end", run="r"))["state"] == "lost"
        assert not house.journal.busy

    in_house(tmp_path, scenario)


def test_one_who_was_forgotten_is_told_so_and_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "_GONE_SECONDS", 0.05)

    async def scenario(house):
        client = await house.client("c")
        start(client, "r")
        await house.begin("r")
        house.say("r", "one\n")
        await client.expect("messages", last=2)
        await client.leave()
        async with asyncio.timeout(10):
            while "c" in house.journal.table.clients:
                await asyncio.sleep(0.01)
        await client.connect()
        assert client.welcome["forgotten"]
        again = await house.client("c2")
        assert not again.welcome["forgotten"]
        await again.ask("read", run="r", after=2)
        house.say("r", "two\n")
        house.finish("r")
        lines, end = await all_lines(again, "r")
        assert [line["n"] for line in lines] == [3, 4]
        assert end["state"] == "done"

    in_house(tmp_path, scenario)


def test_another_protocol_is_told_and_not_kept(tmp_path):
    async def scenario(house):
        peer = Peer(house, "nbcloud_client", id="old")
        peer.facts["protocol"] = PROTOCOL + 1
        comm = await connect(house.scheduler.address)
        await comm.write(
            {"op": "nbcloud_client", "hello": {"id": "old", "protocol": PROTOCOL + 1, "received": 0}}
        )
        assert (await comm.read())["protocol"] == PROTOCOL
        comm.abort()
        assert "old" not in house.journal.table.clients

    in_house(tmp_path, scenario)


OPEN = {"notebook": "", "resources": {"GPU": 1.0}, "memory": None, "ephemeral": False, "lasting": True}


async def open_soon(client, name, ask, workers=0):
    client.channel.post({"op": "open", "ask": ask, "name": name, "workers": workers, **OPEN})
    await client.ask("ping")


async def session_names(client):
    return [facts["name"] for facts in (await client.ask("sessions"))["answer"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at_once", [True, False])
def test_who_waits_no_more_leaves_the_queue(tmp_path, workers, at_once):
    async def scenario(house):
        client = await house.client("c")
        client.channel.post({"op": "open", "ask": "q", "name": "b", "workers": workers, **OPEN})
        if not at_once:
            await client.expect("phase", ask="q")
            assert len(house.journal.waiting()) == max(1, workers)
        client.channel.post({"op": "withdraw", "ask": "q"})
        assert await session_names(client) == ["s"]
        await asyncio.sleep(0.1)  # what would have entered the queue has done so
        assert house.journal.waiting() == []
        assert list(house.journal.table.sessions) == ["s-1"]

    in_house(tmp_path, scenario)


def test_a_session_stays_in_the_queue_while_another_waits_for_it(tmp_path):
    async def scenario(house):
        one, two = await house.client("one"), await house.client("two")
        await open_soon(one, "b", "q1")
        await open_soon(two, "b", "q2")
        one.channel.post({"op": "withdraw", "ask": "q1"})
        assert await session_names(one) == ["s", "b"]
        two.channel.post({"op": "withdraw", "ask": "q2"})
        assert await session_names(two) == ["s"]

    in_house(tmp_path, scenario)


def test_a_kernel_that_came_as_it_was_withdrawn_is_let_go_unless_it_was_there_before(tmp_path):
    async def scenario(house):
        one, two = await house.client("one"), await house.client("two")
        await open_soon(one, "b", "q1")
        session = next(each for each in house.journal.table.sessions.values() if each.name == "b")
        ready = {"op": "ready", "session": session.id, "kernel_pid": 1, "resources": {}}
        house.host.channel.post(ready)
        await one.expect("answer", ask="q1")
        await open_soon(two, "b", "q2")
        two.channel.post({"op": "withdraw", "ask": "q2"})
        one.channel.post({"op": "withdraw", "ask": "q1"})
        assert await session_names(one) == ["s", "b"], "the other client has it"
        await open_soon(one, "c", "q3")
        session = next(each for each in house.journal.table.sessions.values() if each.name == "c")
        house.host.channel.post({**ready, "session": session.id})
        await one.expect("answer", ask="q3")
        one.channel.post({"op": "withdraw", "ask": "q3"})
        assert await session_names(one) == ["s", "b"]
        assert (await house.host.expect("close"))["session"] == session.id

    in_house(tmp_path, scenario)


@pytest.mark.parametrize("workers", [0, 2])
def test_who_goes_away_for_good_leaves_the_queue(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(journal_module, "_GONE_SECONDS", 0.05)

    async def scenario(house):
        gone, other = await house.client("gone"), await house.client("other")
        await open_soon(gone, "b", "q1", workers)
        await open_soon(gone, "both", "q2", workers)
        await open_soon(other, "both", "q3", workers)
        await gone.leave()
        async with asyncio.timeout(10):
            while "gone" in house.journal.table.clients:
                await asyncio.sleep(0.01)
        assert await session_names(other) == ["s", "both"]
        assert len(house.journal.waiting()) == max(1, workers)

    in_house(tmp_path, scenario)


async def gang_of_two(house, client):
    """A gang with a member on each of two workers."""
    second = await house.peer("nbcloud_host", id="h2", worker="w2", name="w2", host="m2", spool="", token="")
    await open_soon(client, "gang", "q", 2)
    gang = next(
        each for each in house.journal.table.sessions.values() if each.name == "gang" and each.members
    )
    for host, member in zip((house.host, second), gang.members, strict=True):
        host.channel.post({"op": "ready", "session": member.id, "kernel_pid": 1, "resources": {}})
    await client.expect("answer", ask="q")
    return gang, second


def test_a_worker_is_busy_while_a_gang_runs_that_has_a_member_there(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        gang, _ = await gang_of_two(house, client)
        for each in (gang, *gang.members):
            each.used -= 1000
        assert house.journal.idle_seconds("w2") > 999
        client.channel.post({"op": "run", "ask": "", "run": "r", **REQUEST, "session": gang.id})
        await client.ask("ping")
        assert house.journal.idle_seconds("w1") is None
        assert house.journal.idle_seconds("w2") is None
        client.channel.post({"op": "stop", "run": "r", "state": "cancelled", "why": "enough", "ask": ""})
        await client.expect("end", run="r")
        assert house.journal.idle_seconds("w2") < 100, "a member is used with its gang"
        assert house.journal.idle_seconds("none") == math.inf

    in_house(tmp_path, scenario)


@pytest.mark.parametrize("worker", ["w1", "w2"])
def test_a_gang_ends_as_a_whole_with_a_worker_that_is_given_back(tmp_path, worker):
    async def scenario(house):
        client = await house.client("c")
        gang, second = await gang_of_two(house, client)
        client.channel.post({"op": "run", "ask": "", "run": "r", **REQUEST, "session": gang.id})
        await client.ask("ping")
        house.journal.release(worker, "its worker was given back")
        rank = int(worker == "w2")
        why = f"rank {rank}: its worker was given back"
        assert why in (await client.expect("end", run="r"))["why"]
        assert (await client.expect("session_lost", session=gang.id))["why"] == why
        for host, member in zip((house.host, second), gang.members, strict=True):
            assert (await host.expect("close", session=member.id))["why"] == why
        assert [each for each in await session_names(client) if each != "s"] == []
        assert ("s-1" in house.journal.table.sessions) is (worker == "w2")

    in_house(tmp_path, scenario)


def test_a_session_that_waited_long_for_its_worker_is_not_idle_when_it_begins(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        await open_soon(client, "b", "q")
        house.session.used -= 1000
        assert house.journal.idle_seconds("w1") > 999
        session = next(each for each in house.journal.table.sessions.values() if each.name == "b")
        session.used -= 1000
        ready = {"op": "ready", "session": session.id, "kernel_pid": 1, "resources": {}}
        house.host.channel.post(ready)
        await client.expect("answer", ask="q")
        assert house.journal.idle_seconds("w1") < 100

    in_house(tmp_path, scenario)


def test_when_a_run_ended_is_told_to_who_looks_later(tmp_path):
    async def scenario(house):
        client, late = await house.client("c"), await house.client("late")
        start(client, "r")
        start(client, "lost")
        await house.begin("r")
        house.finish("r")
        ended = (await client.expect("end", run="r"))["ended"]
        assert abs(ended - time.time()) < 10
        house.journal.table.runs["r"].ended = ended - 1000
        house.journal.table.lose(house.session, "its worker is gone")
        assert abs((await client.expect("end", run="lost"))["ended"] - time.time()) < 10
        await late.ask("read", run="r", after=0)
        assert (await late.expect("end", run="r"))["ended"] == ended - 1000
        assert [run["ended"] for run in (await late.ask("runs"))["answer"]][:1] == [ended - 1000]

    in_house(tmp_path, scenario)


def test_a_thousand_runs_leave_no_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "_KEPT_RUNS", 50)

    async def scenario(house):
        client = await house.client("c")
        await client.ask("ping")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(80):
            start(client, f"r{number}")
            await house.begin(f"r{number}")
            house.finish(f"r{number}")
            await client.expect("end", run=f"r{number}")
        assert len(list(Path("/proc/self/fd").iterdir())) - before < 5
        assert len(house.journal.table.runs) == 50
        assert len(list(tmp_path.glob("*.jsonl"))) == 50

    in_house(tmp_path, scenario)

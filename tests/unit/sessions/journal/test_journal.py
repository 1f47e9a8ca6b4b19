"""Runs at the journal: each message once and in order for whoever reads, and an end for every run."""

import asyncio
import time
from pathlib import Path

import pytest
from distributed.comm import connect

from nbcloud.sessions.channel import PROTOCOL
from nbcloud.sessions.host.process import Frames
from nbcloud.sessions.host.run import HostedRun
from nbcloud.sessions.journal import journal as journal_module
from nbcloud.sessions.journal import table as table_module
from tests.unit.sessions.journal.house import REQUEST, Peer, all_lines, in_house, start

MISSING = Frames(b"{}", b"{}", b"{}", b'{"missing": ["hash"]}', [])


class Told:
    connected = True

    def post(self, message, *, within=0.0):
        pass


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

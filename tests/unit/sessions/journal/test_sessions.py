"""Sessions at the journal: who waits for one, who gives up, and how long a worker has had nothing to do."""

import asyncio
import math

import pytest
from distributed import Worker

from nbcloud.sessions.journal import journal as journal_module
from tests.unit.sessions.journal.house import REQUEST, in_house

OPEN = {
    "notebook": "",
    "resources": {"GPU": 1.0},
    "memory": None,
    "ephemeral": False,
    "lasting": True,
    "over": [],
}


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


@pytest.mark.parametrize("withdrawn", [False, True])
def test_who_knows_that_a_session_is_over_waits_for_the_next_of_its_name(tmp_path, withdrawn):
    async def scenario(house):
        client = await house.client("c")
        client.channel.post({"op": "open", "ask": "q", "name": "s", "workers": 0, **OPEN, "over": ["s-1"]})
        assert [facts["id"] for facts in (await client.ask("sessions"))["answer"]] == ["s-1"]
        if withdrawn:
            client.channel.post({"op": "withdraw", "ask": "q"})
            await client.ask("ping")
        house.host.channel.post({"op": "lost", "session": "s-1", "why": "its kernel ended", "code": 0})
        async with asyncio.timeout(10):
            while "s-1" in house.journal.table.sessions:
                await asyncio.sleep(0.002)
        assert await session_names(client) == ([] if withdrawn else ["s"])

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
        ready = {"op": "ready", "session": session.id, "kernel_pid": 1, "resources": {}, "cold": ""}
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
    about = {"name": "w2", "host": "m2", "spool": "", "token": "", "packages": ""}
    second = await house.peer("nbcloud_host", id="h2", worker="w2", **about)
    await open_soon(client, "gang", "q", 2)
    gang = next(
        each for each in house.journal.table.sessions.values() if each.name == "gang" and each.members
    )
    for host, member in zip((house.host, second), gang.members, strict=True):
        host.channel.post({"op": "ready", "session": member.id, "kernel_pid": 1, "resources": {}, "cold": ""})
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
        ready = {"op": "ready", "session": session.id, "kernel_pid": 1, "resources": {}, "cold": ""}
        house.host.channel.post(ready)
        await client.expect("answer", ask="q")
        assert house.journal.idle_seconds("w1") < 100

    in_house(tmp_path, scenario)


def test_a_worker_is_not_idle_while_a_session_starts_there(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        async with Worker(house.scheduler.address, resources={"GPU": 1}, nthreads=1) as worker:
            assert house.journal.idle_seconds(worker.address) == math.inf
            await open_soon(client, "b", "q")
            async with asyncio.timeout(10):
                while not house.journal.placement.given_to(worker.address):
                    await asyncio.sleep(0.001)
            assert house.journal.idle_seconds(worker.address) is None
            client.channel.post({"op": "withdraw", "ask": "q"})
            assert await session_names(client) == ["s"]
            assert house.journal.idle_seconds(worker.address) == math.inf

    in_house(tmp_path, scenario)


def test_a_next_session_that_can_not_be_is_refused_like_a_first_one(tmp_path):
    async def scenario(house):
        client = await house.client("c")
        async with Worker(house.scheduler.address, resources={"GPU": 1}, nthreads=1):
            asked = {**OPEN, "resources": {"GPU": 3.0}, "over": ["s-1"]}
            client.channel.post({"op": "open", "ask": "q", "name": "s", "workers": 0, **asked})
            await client.ask("ping")
            house.host.channel.post({"op": "lost", "session": "s-1", "why": "its kernel ended", "code": 0})
            assert "has 3 GPUs" in (await client.expect("answer", ask="q"))["error"]
            assert await session_names(client) == []

    in_house(tmp_path, scenario)

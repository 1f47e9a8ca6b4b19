"""Where ranks find themselves, and what their ends make of the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbcloud.sessions.channel import Channel
from nbcloud.sessions.journal.members import ConnectedHost, LiveSession
from nbcloud.sessions.journal.ranks import GangRun, places


def _member(worker: str, machine: str, devices: str = "") -> LiveSession:
    host = ConnectedHost(worker, {"host": machine}, Channel(lambda message: None))
    seen = {"CUDA_VISIBLE_DEVICES": devices} if devices else {}
    return LiveSession("s", "s", "", {}, 0.0, host=host, seen=seen)


def test_ranks_of_several_machines_know_their_neighbours() -> None:
    members = [
        _member("tcp://10.0.0.1:1", "a", "3"),
        _member("tcp://10.0.0.1:2", "a", "5"),
        _member("tcp://10.0.0.2:1", "b", "3"),
    ]
    found = [place["environment"] for place in places(members, 1234)]
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
    assert [[place[name] for name in names] for place in found] == [
        ["0", "3", "0", "2", "0"],
        ["1", "3", "1", "2", "0"],
        ["2", "3", "0", "1", "1"],
    ]
    assert {(place["MASTER_ADDR"], place["MASTER_PORT"]) for place in found} == {("10.0.0.1", "1234")}
    # LOCAL_RANK is the device's number among those of the machine; one alone has its own.
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in found] == ["3,5", "3,5", None]


@pytest.mark.parametrize("devices", [("0", "0"), ("0,1", "2,3"), ("", "")])
def test_devices_that_are_not_one_for_each_rank_stay_as_they_are(devices: tuple[str, str]) -> None:
    members = [_member(f"tcp://10.0.0.1:{port}", "a", given) for port, given in enumerate(devices)]
    found = places(members, 1)
    assert all("CUDA_VISIBLE_DEVICES" not in place["environment"] for place in found)
    assert found[0]["environment"]["MASTER_ADDR"] == "127.0.0.1"


def _end(state: str, ename: str = "", evalue: str = "", **more: Any) -> dict[str, Any]:
    status = "ok" if state == "done" else "error"
    content = json.dumps({"status": status, "ename": ename, "evalue": evalue, "names": {}}).encode()
    error = {"ename": ename, "evalue": evalue, "traceback": ["T"]} if ename else None
    common = {"state": state, "why": "", "exit_code": None, "buffers": [], "error": error}
    return {**common, "content": content if state != "lost" else b"", **more}


def test_a_crash_is_why_the_others_failed() -> None:
    run = GangRun(
        None, ends={0: _end("failed", "RuntimeError", "reset by peer"), 1: _end("lost", why="it died")}
    )
    assert run.cause() == 1
    assert run.verdict()["why"] == "rank 1 of 2: it died"
    assert run.errors() == {0: run.ends[0]["error"]}


def test_what_a_rank_raised_by_itself_is_why_and_not_what_it_raised_when_stopped() -> None:
    ends = {1: _end("failed", "ValueError", "no"), 0: _end("cancelled", "KeyboardInterrupt")}
    run = GangRun(None, ends=ends, stopped={0})
    assert run.cause() == 1
    assert run.errors() == {}
    error = run.named_error(1)
    assert error is not None
    assert (error["evalue"], error["traceback"]) == ("no [rank 1]", ["On rank 1 of 2:", "T"])
    assert run.content()["evalue"] == "no [rank 1]"


@pytest.mark.parametrize(("interrupted", "cause"), [(True, 1), (False, 0)])
def test_who_interrupts_reads_of_an_interrupt(interrupted: bool, cause: int) -> None:
    ends = {0: _end("failed", "RuntimeError", "broken"), 1: _end("failed", "KeyboardInterrupt")}
    assert GangRun(None, ends=ends, interrupted=interrupted).cause() == cause


def test_of_ranks_that_failed_alike_the_first_is_named() -> None:
    ends = {2: _end("failed", "E", "v"), 0: _end("failed", "E", "v"), 1: _end("done")}
    run = GangRun(None, ends=ends)
    assert run.cause() == 0
    assert run.errors() == {}


def test_when_all_is_well_rank_0_tells() -> None:
    run = GangRun(None, ends={1: _end("done"), 0: _end("done", usage={"samples": 1})})
    assert run.cause() is None
    assert run.verdict()["usage"] == {"ranks": [{"rank": 0, "samples": 1}]}
    assert run.content()["status"] == "ok"

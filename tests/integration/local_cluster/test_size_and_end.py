"""Clusters of this machine grow, shrink and end, asked or by themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nbcloud.clusters import connect, local, process, registry
from nbcloud.clusters.base import ClusterInfo
from tests.integration.local_cluster.processes import Wait, client_of, spawn_child, worker_pids

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are injected by POSIX signals")


def test_scale_up_and_down(up: Callable[..., ClusterInfo]) -> None:
    info = up()
    more = connect.scale(info, 3)
    assert (more.workers, more.id) == (3, info.id)
    assert registry.get("local") == more
    assert len(worker_pids(info)) == 3
    less = connect.scale(more, 1)
    assert len(worker_pids(info)) == 1
    assert less.options["workers"] == 1
    members = [each.pid for each in process.members(info.pid, info.id)]
    assert worker_pids(info) <= set(members)


def test_scale_down_spares_the_worker_with_a_session(
    up: Callable[..., ClusterInfo], wait_until: Wait
) -> None:
    info = up(workers=3)
    # The newest goes first otherwise.
    address = next(each["address"] for each in connect.status(info)["workers"] if each["name"] == 2)
    with client_of(info) as client:
        session = client.submit(time.sleep, 600, key="nbcloud-session-a", workers=[address])
        wait_until(lambda: client.processing()[address])
        connect.scale(info, 1)
        assert [worker["address"] for worker in connect.status(info)["workers"]] == [address]
        assert client.processing() == {address: ("nbcloud-session-a",)}
        del session


def test_what_a_removed_worker_started_goes_with_it(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(workers=2)
    with client_of(info) as client:
        pids = client.run(spawn_child).values()
        connect.scale(info, 1)
    left = [pid for pid in pids if process.birth(pid)]
    assert len(left) == 1


def test_down_ends_every_process_and_removes_all_but_the_journals(up: Callable[..., ClusterInfo]) -> None:
    info = up(workers=2)
    directory = Path(info.directory or "")
    (directory / "journal" / "run.jsonl").write_text("printed")
    (directory / "spool" / "payload").write_text("x")
    with client_of(info) as client:
        children = list(client.run(spawn_child).values())
    before = process.members(info.pid, info.id)
    assert len(before) >= 5
    local.down(info)
    assert [each for each in before if process.birth(each.pid)] == []
    assert [pid for pid in children if process.birth(pid)] == []
    assert [str(path.relative_to(directory)) for path in sorted(directory.rglob("*"))] == [
        "journal",
        "journal/run.jsonl",
    ]
    assert not local.alive(info)


def test_down_ends_a_cluster_that_is_stopped(up: Callable[..., ClusterInfo]) -> None:
    info = up()
    for each in process.members(info.pid, info.id):
        each.suspend()
    local.down(info, timeout=1)
    assert process.members(info.pid, info.id) == []


def test_it_stops_by_itself_when_idle(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=0.6)
    wait_until(lambda: not local.alive(info))
    assert registry.get("local") is None
    assert not Path(info.directory or "").exists()
    assert process.wait_gone(process.members(None, info.id), 5) == []


def test_work_keeps_it_up_and_a_sleeping_session_does_not(
    up: Callable[..., ClusterInfo], wait_until: Wait
) -> None:
    info = up(idle_timeout=0.6, threads=2)
    with client_of(info) as client:
        session = client.submit(time.sleep, 600, key="nbcloud-session-a")
        client.submit(time.sleep, 2.5, key="work").result()
        assert local.alive(info)
        wait_until(lambda: not local.alive(info))
        del session


def test_sessions_say_whether_they_are_busy(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=0.6)
    begin = (
        "lambda dask_scheduler: dask_scheduler.extensions.update("
        "nbcloud=__import__('types').SimpleNamespace(busy=True, last_active=0.0))"
    )
    end = "lambda dask_scheduler: setattr(dask_scheduler.extensions['nbcloud'], 'busy', False)"
    with client_of(info) as client:
        client.run_on_scheduler(eval(begin))
        busy_until = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > busy_until or not local.alive(info))
        assert local.alive(info)
        client.run_on_scheduler(eval(end))
        wait_until(lambda: not local.alive(info))


def test_it_stops_when_the_registry_forgot_it(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=4)
    registry.remove(info.name, info.id)
    wait_until(lambda: not local.alive(info))


def test_it_stops_when_a_client_shuts_the_scheduler_down(
    up: Callable[..., ClusterInfo], wait_until: Wait
) -> None:
    info = up()
    with client_of(info) as client:
        client.shutdown()
    wait_until(lambda: not local.alive(info))
    wait_until(lambda: registry.get("local") is None)

"""Killed and stopped processes of a cluster are replaced, or it is told that it is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbcloud.clusters import connect, local, process, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.errors import ClusterLost, ClusterNotFound
from tests.integration.local_cluster.processes import Wait, client_of, spawn_child, worker_pids

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are injected by POSIX signals")


def test_a_killed_worker_is_replaced(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up()
    old: set[int] = set()
    for _ in range(2):
        [pid] = worker_pids(info) - old
        old.add(pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker_pids(info) - old)
    with client_of(info) as client:
        assert client.submit(pow, 2, 3).result(timeout=60) == 8


def test_a_worker_whose_nanny_gave_up_is_replaced(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=8)
    old = worker_pids(info)
    with client_of(info) as client:
        close = eval("lambda dask_worker: dask_worker.loop.add_callback(dask_worker.close) and None")
        client.run(close, nanny=True)
        wait_until(lambda: worker_pids(info) - old)


def test_a_killed_daemon_leaves_no_process(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(workers=2)
    with client_of(info) as client:
        children = list(client.run(spawn_child).values())
    workers = [psutil.Process(pid) for pid in worker_pids(info)]
    before = process.members(info.pid, info.id)
    os.kill(info.pid or 0, signal.SIGKILL)
    assert process.wait_gone(workers, 10) == []
    assert process.wait_gone([each for each in before if each.pid not in children], 10) == []
    # What the workers had started is nobody's child now; whoever looks next at the registry ends it.
    assert registry.entries() == []
    assert [pid for pid in children if process.birth(pid)] == []
    assert not Path(info.directory or "").exists()


@pytest.mark.parametrize("seen", [False, True])
def test_a_dead_cluster_is_started_again_as_it_was(
    up: Callable[..., ClusterInfo], wait_until: Wait, seen: bool
) -> None:
    info = up("big", workers=2, threads=2, memory="1GiB", resources={"GPU": 1})
    os.kill(info.pid or 0, signal.SIGKILL)
    wait_until(lambda: not local.alive(info))
    if seen:  # somebody listed the clusters, and so cleaned the entry away
        with pytest.raises(ClusterNotFound):
            connect.resolve("big", start=False)
    again = connect.resolve("big")
    assert again.id != info.id
    assert again.options == info.options
    assert (again.workers, again.threads, again.memory) == (2, 2, 2**30)
    assert connect.status(again)["workers"][0]["resources"]["GPU"] == 1
    local.down(again)
    with pytest.raises(ClusterNotFound):
        connect.resolve("big")


def test_a_dead_scheduler_is_lost_at_once(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up()
    os.kill(info.pid or 0, signal.SIGKILL)
    wait_until(lambda: not local.alive(info))
    with pytest.raises(
        ClusterLost,
        match=rf"The cluster 'local' is gone \(its process was {info.pid}\). Type: %cloud up local",
    ):
        connect.status(info)
    with pytest.raises(ClusterLost):
        connect.scale(info, 2)


def test_a_scheduler_that_hangs_is_told_in_time(up: Callable[..., ClusterInfo]) -> None:
    info = up()
    os.kill(info.pid or 0, signal.SIGSTOP)
    try:
        assert local.alive(info)
        began = time.monotonic()
        with pytest.raises(ClusterLost, match=r"gives no answer \(1 s\)"):
            connect.status(info, timeout=1)
        with pytest.raises(ClusterLost, match=r"gives no answer \(1 s\)"):
            local.scale(info, 2, timeout=1)
        assert time.monotonic() - began < 5
    finally:
        os.kill(info.pid or 0, signal.SIGCONT)
    assert len(worker_pids(info)) == 1


def test_status_can_be_asked_from_within_an_event_loop_and_from_threads(local_cluster: ClusterInfo) -> None:
    import asyncio

    async def inside() -> dict[str, Any]:
        return connect.status(local_cluster)

    assert len(asyncio.run(inside())["workers"]) == 2
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(connect.status(local_cluster))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(answer["workers"]) for answer in answers] == [2] * 4

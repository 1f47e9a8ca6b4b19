"""What a worker does before its first session."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed
import psutil
import pytest

from nbcloud.cli import main
from nbcloud.dispatch.kernel import CloudKernel
from nbcloud.dispatch.links import close_links
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import Recorder
from nbcloud.sessions.host.arrival import hold_session
from nbcloud.sessions.host.host import Host
from nbcloud.sessions.journal.journal import Journal


def test_a_session_that_comes_before_its_host_waits_for_it() -> None:
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.register_plugin(Journal(None, 2**20))
        session = client.submit(hold_session, "early", None)
        deadline = time.monotonic() + 30
        while not any(client.processing().values()):
            assert time.monotonic() < deadline
        client.register_plugin(Host())
        # The journal knows of no such session, so that its kernel is ended as soon as it is there.
        assert session.result(60) == "ended"


def test_the_first_kernel_has_what_is_preloaded_however_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def is_forked(dask_worker: distributed.Worker) -> bool | None:
        ahead = getattr(dask_worker.plugins["nbcloud"], "_warm", None)
        return ahead.result().forked if ahead is not None and ahead.done() else None

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.register_plugin(Host(preload=["slow"]))
        deadline = time.monotonic() + 60
        while (forked := next(iter(client.run(is_forked).values()))) is None:
            assert time.monotonic() < deadline
        assert forked


def test_status_says_why_a_kernel_has_nothing_preloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NBCLOUD_PRELOAD", "odd")
    command = [sys.executable, "-m", "nbcloud", "status", "preloading"]
    assert main(["up", "preloading", "--workers", "1"]) == 0
    try:
        told = ""
        deadline = time.monotonic() + 60
        while "can't be shared: it keeps 1 threads running" not in told:  # it may still be importing
            assert time.monotonic() < deadline, told
            kernel = CloudKernel("here", CellOptions(cluster="preloading"), Recorder())
            kernel.start()
            told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            kernel.close()
        assert "not preloaded: the preload 'odd' can't be shared" in told
    finally:
        close_links()
        assert main(["down", "preloading"]) == 0


def test_sessions_that_begin_at_once_leave_no_kernel_behind() -> None:
    assert main(["up", "crowded", "--workers", "1"]) == 0
    try:
        for _ in range(3):
            pids, worker = _several_at_once("crowded", 6)
            assert len(pids) == 6
            # What forks them, and the one that is kept ready for the next session.
            _wait_for(lambda worker=worker: len(worker.children()) >= 2)
        _wait_for(lambda: len(worker.children()) == 2 and not pids & {each.pid for each in worker.children()})
    finally:
        close_links()
        assert main(["down", "crowded"]) == 0


def _several_at_once(cluster: str, count: int) -> tuple[set[int], psutil.Process]:
    """The kernels of sessions that begin and end together, and their worker."""
    kernels = [CloudKernel(f"here-{n}", CellOptions(cluster=cluster), Recorder()) for n in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(CloudKernel.start, kernels))
        assert kernels[0].session is not None
        pids = {session["kernel_pid"] for session in kernels[0].session.link.ask("sessions")}
        worker = psutil.Process(max(pids)).parent()
        assert worker is not None
        list(pool.map(CloudKernel.close, kernels))
    return pids, worker


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

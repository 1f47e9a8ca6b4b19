"""What a worker does before its first session."""

from __future__ import annotations

import time
from pathlib import Path

import distributed
import pytest

from nbcloud.sessions.host.arrival import hold_session
from nbcloud.sessions.host.host import Host
from nbcloud.sessions.journal.journal import Journal


def test_a_session_that_comes_before_its_host_waits_for_it() -> None:
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
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

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        client.register_plugin(Host(preload=["slow"]))
        deadline = time.monotonic() + 60
        while (forked := next(iter(client.run(is_forked).values()))) is None:
            assert time.monotonic() < deadline
        assert forked

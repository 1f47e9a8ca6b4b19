"""What a worker does with sessions before all of nbcloud has come to it."""

from __future__ import annotations

import time

import distributed

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

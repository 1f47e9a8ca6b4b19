"""What every kind of cluster promises; each backend subclasses the suite."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import pytest

from nbcloud.clusters import connect, existing, local, registry
from nbcloud.clusters.base import Backend, ClusterInfo
from nbcloud.clusters.kubernetes import backend as kubernetes_backend
from nbcloud.clusters.routes import route
from nbcloud.errors import ClusterNotFound, UsageError

TCP_SCHEDULER = """
import asyncio
import distributed

async def main():
    options = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    async with distributed.Scheduler(**options) as scheduler:
        async with distributed.Worker(scheduler.address, host="127.0.0.1"):
            print(scheduler.address, flush=True)
            await scheduler.finished()

asyncio.run(main())
"""


class ClusterContract:
    backend: Backend
    kind: str
    least = 1
    """The fewest workers that it can be scaled to."""

    @pytest.fixture
    def up(self) -> Callable[[], ClusterInfo]:
        """Bring the cluster of this test up; each call does the same."""
        raise NotImplementedError

    @pytest.fixture
    def info(self, up: Callable[[], ClusterInfo]) -> Iterator[ClusterInfo]:
        info = up()
        yield info
        self.backend.down(info)

    # A cluster is dear to start: each of these looks at one from several sides.

    def test_is_complete_registered_and_found(self, info: ClusterInfo, up: Callable[[], ClusterInfo]) -> None:
        assert info.ready
        assert info.kind == self.kind
        assert self.backend.alive(info)
        assert info.workers >= 1
        assert info.threads >= 1
        assert info.memory > 0
        assert registry.get(info.name) == info
        assert registry.entries() == [info]
        assert ClusterInfo.from_json(info.to_json()) == info, "it is plain data"
        assert pickle.loads(pickle.dumps(info)) == info
        assert connect.resolve(info.name) == info
        assert connect.resolve(info.address) == info
        again = up()
        assert (again.name, again.address) == (info.name, info.address)
        assert len(registry.entries()) == 1

    def test_computes_and_tells_its_workers(self, info: ClusterInfo) -> None:
        address = asyncio.run(route(info))
        with distributed.Client(address, security=info.security(), set_as_default=False) as client:
            assert client.submit(pow, 2, 10).result(timeout=60) == 1024
        status = connect.status(info)
        assert status["address"].startswith(info.address[:3])
        assert len(status["workers"]) == info.workers
        worker = status["workers"][0]
        assert worker["address"].startswith(info.address[:3])
        assert worker["nthreads"] == info.threads
        assert worker["memory_limit"] == info.memory
        assert set(worker) >= {"name", "memory", "cpu", "resources", "pid", "last_seen"}
        for n in (self.least - 1, -1):
            with pytest.raises(UsageError):
                connect.scale(info, n)
        for change in (lambda: connect.scale(info, 1, "gpus"), lambda: connect.follow(info, "gpus")):
            with pytest.raises(UsageError, match=r"no group 'gpus'|not started by nbcloud"):
                change()
        with pytest.raises(UsageError, match=r"follow|fixed|not started by nbcloud"):
            connect.follow(info)

    def test_down_forgets_it_may_be_said_twice_and_spares_a_later_one_of_its_name(
        self, info: ClusterInfo
    ) -> None:
        self.backend.down(replace(info, id="00000000", pid=None))
        assert registry.get(info.name) == info
        assert self.backend.alive(info)
        self.backend.down(info)
        assert registry.entries() == []
        with pytest.raises(ClusterNotFound):
            connect.resolve(info.name, start=False)
        self.backend.down(info)


class TestLocal(ClusterContract):
    backend = local
    kind = "local"

    @pytest.fixture
    def up(self) -> Callable[[], ClusterInfo]:
        return lambda: local.up("contract", workers=1, threads=1, memory="1GiB", idle_timeout=300)


class TestExistingWithoutTLS(ClusterContract):
    backend = existing
    kind = "existing"

    @pytest.fixture
    def up(self, other_process: Callable[[str], subprocess.Popen[str]]) -> Callable[[], ClusterInfo]:
        scheduler = other_process(TCP_SCHEDULER)
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().strip()
        return lambda: existing.up(address)


class TestExistingWithTLS(ClusterContract):
    backend = existing
    kind = "existing"

    @pytest.fixture
    def up(
        self,
        local_cluster: ClusterInfo,
        nbcloud_dirs: object,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[[], ClusterInfo]:
        # In a registry of its own, where nobody knows that the cluster is one of ours.
        monkeypatch.setenv("NBCLOUD_RUNTIME_DIR", str(tmp_path_factory.mktemp("registry")))
        return lambda: existing.up(local_cluster.address, "office", tls=local_cluster.tls)


class TestKubernetes(ClusterContract):
    backend = kubernetes_backend
    kind = "kubernetes"
    least = 0

    @pytest.fixture
    def up(self, project: Path) -> Callable[[], ClusterInfo]:
        return lambda: connect.up("gpu")

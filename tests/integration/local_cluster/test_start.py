"""Clusters of this machine start, whoever asks, and are found again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbcloud.clusters import connect, local, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.errors import ClusterStartError
from tests.integration.local_cluster.processes import Run, Wait, client_of, line_of, worker_pids

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are injected by POSIX signals")

UP = """
import json
from nbcloud.clusters import local
def tell(what):
    print(json.dumps(what), flush=True)
info = local.up(workers=1, threads=1, idle_timeout=300, progress=tell)
tell([info.id, info.pid])
input()
"""


def test_phases_are_told_and_defaults_fit_the_machine(up: Callable[..., ClusterInfo]) -> None:
    told: list[str] = []
    info = up(workers=None, threads=None, progress=told.append)
    assert told == ["starting the scheduler", f"starting {info.workers} workers"]
    assert 2 <= info.workers <= 4
    status = connect.status(info)
    assert len(status["workers"]) == info.workers
    for worker in status["workers"]:
        assert worker["nthreads"] == info.threads >= 1
        assert worker["memory_limit"] == info.memory
        assert worker["resources"]["CPU"] >= 1
        assert worker["resources"]["MEMORY"] == info.memory
        assert psutil.pid_exists(worker["pid"])
    assert info.memory * info.workers <= psutil.virtual_memory().total


def test_options_reach_the_workers(up: Callable[..., ClusterInfo]) -> None:
    info = up(workers=2, threads=3, memory="1GiB", resources={"GPU": 1}, idle_timeout=77)
    assert (info.workers, info.threads, info.memory, info.idle_timeout) == (2, 3, 2**30, 77)
    assert [worker["resources"] for worker in connect.status(info)["workers"]] == [
        {"CPU": 3, "MEMORY": 2**30, "GPU": 1}
    ] * 2


def test_another_process_finds_it(up: Callable[..., ClusterInfo], other_process: Run) -> None:
    info = up()
    other = other_process(
        "import json; from nbcloud.clusters import connect; print(json.dumps(connect.resolve().id))"
    )
    assert line_of(other) == info.id


def test_up_on_a_running_cluster_says_when_its_options_differ(up: Callable[..., ClusterInfo]) -> None:
    told: list[str] = []
    info = up()
    assert up(workers=3, progress=told.append) == info
    assert told == ["'local' is up already, with other options; they stay"]


def test_two_processes_that_call_up_at_once_get_one_cluster(
    up: Callable[..., ClusterInfo], other_process: Run
) -> None:
    others = [other_process(UP) for _ in range(2)]
    lines: list[list[Any]] = [[], []]
    for other, told in zip(others, lines, strict=True):
        while not told or isinstance(told[-1], str):
            told.append(line_of(other))
    assert lines[0][-1] == lines[1][-1]
    assert "waiting for another process that starts or ends 'local'" in lines[0] + lines[1]
    assert [info.id for info in registry.entries()] == [lines[0][-1][0]]
    directories = [path for path in registry.folder().iterdir() if path.is_dir()]
    assert len(directories) == 1


def test_it_survives_the_process_that_started_it(
    up: Callable[..., ClusterInfo], other_process: Run, wait_until: Wait
) -> None:
    other = other_process(UP)
    while isinstance(line := line_of(other), str):
        pass
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
        os.killpg(other.pid, number)
    other.wait()
    info = up()
    assert [info.id, info.pid] == line
    assert len(worker_pids(info)) == 1


def test_a_start_goes_on_when_the_starter_is_killed(
    up: Callable[..., ClusterInfo], other_process: Run
) -> None:
    other = other_process(UP)
    assert line_of(other) == "starting the scheduler"
    other.kill()
    [started] = registry.entries()
    assert up().id == started.id


def test_workers_have_the_environment_of_the_caller(
    up: Callable[..., ClusterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "s3cret")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    info = up()
    with client_of(info) as client:
        assert set(client.run(os.getenv, "A_TOKEN").values()) == {"s3cret"}
        # Dask would set it to 1, and every kernel would inherit that.
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {None}
        assert set(client.run(os.getcwd).values()) == {info.directory}


def test_the_users_dask_configuration_can_not_break_it(
    up: Callable[..., ClusterInfo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__IDLE_TIMEOUT", "1ms")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__PRELOAD", "no_such_module")
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "no_such_module")
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION", "1s")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION", "9")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://192.0.2.1:1")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS", "tcp://192.0.2.1:1")
    info = up()
    assert len(worker_pids(info)) == 1


def test_it_starts_where_nbcloud_is_on_the_path_of_the_caller_only(
    up: Callable[..., ClusterInfo], tmp_path: Path
) -> None:
    root = str(Path(local.__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r})\n"
    code += "from nbcloud.clusters import local; print(local.up(workers=1).id)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert up().id == done.stdout.strip()


def nothing_is_left() -> bool:
    clusters = [path for path in registry.folder().iterdir() if path.suffix != ".lock"]
    directory = str(registry.folder())
    processes = [
        each for each in psutil.process_iter(["cmdline"]) if directory in " ".join(each.info["cmdline"] or [])
    ]
    return not clusters and not processes


def test_a_start_that_fails_shows_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('this is not the distributed you want')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ClusterStartError, match="this is not the distributed you want") as caught:
        local.up()
    assert str(caught.value).startswith(
        "The local cluster 'local' ended before it was up; its log ends with:\n"
    )
    assert nothing_is_left()


def test_a_start_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ClusterStartError, match="did not come up in time"):
        local.up(timeout=0.2)
    assert nothing_is_left()


def test_an_interrupted_start_leaves_nothing() -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.up(progress=interrupt)
    assert nothing_is_left()

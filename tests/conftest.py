"""What every test may use: private directories, a live cluster, another process, patience with a limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbcloud.clusters import local, process
from nbcloud.clusters.base import ClusterInfo

ROOT = Path(__file__).parents[1]

# What a shell runs in the background ignores Ctrl-C, under nohup the end of the terminal, too; and so does all that
# it starts.
HEED_SIGNALS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
NBCLOUD = f"""{HEED_SIGNALS}
import sys
from nbcloud.cli import main
sys.exit(main())
"""
"""Code of a process that is ``nbcloud`` with the arguments that it gets."""


@pytest.fixture(autouse=True)
def nbcloud_dirs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test's own registry and records; with ``local_cluster``, the registry in which that is known."""
    runtime = tmp_path / "run"
    if "local_cluster" in request.fixturenames:
        request.getfixturevalue("local_cluster")
        runtime = request.getfixturevalue("local_cluster_dir")
    monkeypatch.setenv("NBCLOUD_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    return runtime


@pytest.fixture(scope="session")
def local_cluster_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local_cluster") / "run"


@pytest.fixture(scope="session")
def local_cluster(local_cluster_dir: Path) -> Iterator[ClusterInfo]:
    """A local cluster of two workers, named ``local``, for all tests that do it no harm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBCLOUD_RUNTIME_DIR", str(local_cluster_dir))
        info = local.up(workers=2, threads=2, idle_timeout=900)
    yield info
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBCLOUD_RUNTIME_DIR", str(local_cluster_dir))
        local.down(info)
    assert process.members(None, info.id) == []


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Wait for a condition, and return its value; fail when it does not come true in time."""

    def wait(condition: Callable[[], Any], limit: float = 60.0, what: str = "the condition") -> Any:
        deadline = time.monotonic() + limit
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not come true within {limit:g} s")
            time.sleep(0.02)
        return value

    return wait


@pytest.fixture
def other_process() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Run Python code in another process, that can import nbcloud; killed at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", HEED_SIGNALS + code]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        started.append(subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.communicate()

"""What stands still or is cut off for a while loses nothing, and what does so for good can be left."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
from pathlib import Path

import pytest

from nbcloud.clusters.base import ClusterInfo
from tests.integration.notebooks import RunningNotebook, Shown, pids, works


def test_a_kernel_that_stands_still_is_ended_by_the_second_interrupt(notebook: RunningNotebook) -> None:
    _, kernel = pids(notebook)
    looks = []

    def look(shown: Shown) -> bool:
        if "begun" in shown.text():
            looks.append(1)
            if len(looks) == 1:
                os.kill(kernel, signal.SIGSTOP)
            elif len(looks) % 20 == 0:  # every second; clicks in quick succession are one interrupt
                notebook.interrupt()
        return False

    shown = notebook.run("%%cloud\nimport time\nprint('begun', flush=True)\ntime.sleep(60)", meanwhile=look)
    assert (shown.text(), shown.error) == ("begun\n", "RunCancelled")
    works(notebook)


def test_a_worker_that_stands_still_is_told_and_can_be_left(own_notebook: RunningNotebook) -> None:
    worker, _ = pids(own_notebook)
    own_notebook.run("from nbcloud.jupyter import cell\ncell._GIVE_UP = 1")
    interrupts = []

    def look(shown: Shown) -> bool:
        if "begun" in shown.text() and not interrupts:
            os.kill(worker, signal.SIGSTOP)
            interrupts.append(0)
        if "has not answered" in shown.notes:
            if len(interrupts) in (1, 20):
                own_notebook.interrupt()
            interrupts.append(1)
        return False

    try:
        shown = own_notebook.run(
            "%%cloud\nimport time\nprint('begun', flush=True)\ntime.sleep(100)", meanwhile=look, limit=90
        )
        assert (shown.text(), shown.error) == ("begun\n", "RunLost")
        assert "%cloud attach" in shown.traceback
        works(own_notebook)  # on the other worker
    finally:
        os.kill(worker, signal.SIGCONT)


def test_a_scheduler_that_stands_still_for_a_while_loses_nothing(
    own_notebook: RunningNotebook, own_cluster: ClusterInfo
) -> None:
    assert own_cluster.pid is not None
    scheduler = own_cluster.pid
    looks = []

    def look(shown: Shown) -> bool:
        if "3\n" in shown.text() and not looks:
            os.kill(scheduler, signal.SIGSTOP)
        if looks or "3\n" in shown.text():
            looks.append(1)
        if len(looks) == 40:  # two seconds
            os.kill(scheduler, signal.SIGCONT)
            return True
        return False

    shown = own_notebook.run(
        "%%cloud\nimport time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)",
        meanwhile=look,
    )
    assert shown.text() == "".join(f"{i}\n" for i in range(40))


def _cut(address: str, pid: int) -> None:
    """Break this process's connections to a scheduler or worker, as a lost network would."""
    port = address.rpartition(":")[2]
    listed = subprocess.run(
        ["ss", "-Htnp", "dst", "127.0.0.1", "dport", "=", f":{port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        if f"pid={pid}," in line:
            source = line.split()[3].rpartition(":")[2]
            subprocess.run(
                ["ss", "-K", "src", "127.0.0.1", "sport", "=", f":{source}", "dport", "=", f":{port}"],
                capture_output=True,
                check=True,
            )


def _can_cut() -> bool:
    if not Path("/proc/net/tcp").exists() or os.geteuid() != 0:
        return False
    try:
        return subprocess.run(["ss", "-K", "dst", "192.0.2.1"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(
    not _can_cut(), reason="cutting a connection from outside needs Linux, root and ss (iproute2)"
)
@pytest.mark.parametrize("to", ["scheduler", "worker", "both"])
def test_a_dropped_connection_is_made_again_and_nothing_is_lost_or_doubled(
    notebook: RunningNotebook, local_cluster: ClusterInfo, to: str
) -> None:
    pid = int(notebook.run("import os; os.getpid()").result)
    notebook.run("%%cloud\npass")  # the next cell takes the shortcut
    worker = notebook.run(
        "from nbcloud.dispatch.links import _links\n"
        "[*[*_links.values()][-1]._shortcuts]  # where its shortcuts lead"
    ).result
    cuts: list[int] = []

    def look(shown: Shown) -> bool:
        lines = shown.text().count("\n")
        if lines > 10 * (len(cuts) + 1):
            cuts.append(lines)
            if to != "worker":
                _cut(local_cluster.address, pid)
            if to != "scheduler":
                _cut(ast.literal_eval(worker)[0], pid)
        return len(cuts) == 3

    shown = notebook.run(
        "%%cloud\nimport time\nfor i in range(60):\n    print(i, flush=True)\n    time.sleep(0.03)",
        meanwhile=look,
    )
    assert len(cuts) == 3
    assert shown.text() == "".join(f"{i}\n" for i in range(60))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a small disk needs root to be mounted")
def test_a_full_disk_under_the_journal_loses_nothing_that_memory_can_hold(
    own_notebook: RunningNotebook, own_cluster: ClusterInfo
) -> None:
    journal = Path(own_cluster.directory or "") / "journal"
    journal.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(journal)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode()}")
    try:
        shown = own_notebook.run("%%cloud\nfor i in range(20000): print('line', i)")
        assert shown.text() == "".join(f"line {i}\n" for i in range(20000))
        assert shown.error == ""
        works(own_notebook)
    finally:
        subprocess.run(["umount", "-l", str(journal)], check=True)

"""Processes of a cluster: telling one from a later one of the same pid, and ending them all."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "_NBCLOUD_CLUSTER"
"""Environment variable with the id of the cluster that a process belongs to.

It finds what a worker left behind when it was killed: such a process is nobody's child any more.
Not ``NBCLOUD_…``, because that would be a setting.
"""

_POLL = 0.01


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


if sys.platform == "linux":

    def birth(pid: int) -> str | None:
        """Identity of the start of process ``pid``; None when it is gone, or dead and not yet reaped.

        It is the boot and the tick, which stay the same when somebody sets the clock; a date would make
        a live cluster look like a stranger with the same pid.
        """
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = status.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"

else:

    def birth(pid: int) -> str | None:
        """Identity of the start of process ``pid``; None when it is gone, or dead and not yet reaped."""
        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
        except psutil.Error:
            return None


def is_alive(pid: int | None, started: str) -> bool:
    """Whether the process that began as ``started`` still runs."""
    return pid is not None and birth(pid) == started


def _mark(process: psutil.Process) -> str | None:
    try:
        found: str | None = process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None
    return found


def members(root: int | None, cluster_id: str) -> list[psutil.Process]:
    """The live processes of a cluster: ``root``, its descendants, and whatever else bears its mark.

    Neither the caller nor its ancestors are among them, nor another cluster that one of them started.
    """
    found: dict[int, psutil.Process] = {}
    if root is not None:
        with suppress(psutil.Error):
            process = psutil.Process(root)
            tree = [process, *process.children(recursive=True)]
            found = {each.pid: each for each in tree if _mark(each) in (None, cluster_id)}
    for each in psutil.process_iter():
        if each.pid not in found and _mark(each) == cluster_id:
            found[each.pid] = each
    for own in [psutil.Process(), *psutil.Process().parents()]:
        found.pop(own.pid, None)
    return [each for each in found.values() if birth(each.pid)]


def terminate(pid: int) -> None:
    """Ask a process to end, also when it is stopped."""
    with suppress(OSError):
        os.kill(pid, signal.SIGTERM)
        if hasattr(signal, "SIGCONT"):
            os.kill(pid, signal.SIGCONT)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def wait_gone(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Those of ``processes`` that still run after at most ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while left := [each for each in processes if _runs(each)]:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL)
    return left


def kill(processes: Iterable[psutil.Process], timeout: float = 5.0) -> list[psutil.Process]:
    """Kill ``processes``; return those that even that did not end within ``timeout`` seconds."""
    processes = list(processes)
    for each in processes:
        with suppress(psutil.Error):
            each.kill()
    return wait_gone(processes, timeout)

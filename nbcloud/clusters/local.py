"""The embedded default: a cluster of processes on this machine that outlives the kernel which started it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbcloud.clusters import process, registry, wire
from nbcloud.clusters.base import (
    DEFAULT_GROUP,
    ClusterInfo,
    Progress,
    check_name,
    check_only_group,
    silent,
)
from nbcloud.config import parse_bytes, private_dir, settings
from nbcloud.errors import ClusterError, ClusterStartError, UsageError
from nbcloud.wording import counted

_POLL = 0.01
_LOG_LINES = 20
_LEAST_MEMORY = 2**27  # an idle worker takes half of it, and would be killed for that again and again
# The caller's way to nbcloud goes last, for the case that it is on no path of a fresh interpreter.
_BOOT = """
import sys
sys.path.append(sys.argv.pop(1))
from nbcloud.clusters.daemon import main
main(sys.argv[1])
"""


def up(
    name: str = "local",
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    idle_timeout: float | None = None,
    resources: Mapping[str, float] | None = None,
    timeout: float = 60.0,
    progress: Progress = silent,
) -> ClusterInfo:
    """Bring a local cluster up, or find it up, and return it when its workers are there.

    Parameters
    ----------
    workers : int, optional
        Worker processes; by default one for each CPU, from 2 to 4.
    threads : int, optional
        Threads of each worker, for Dask's own tasks; by default the CPUs are shared out.
    memory : int or str, optional
        Memory of each worker, in bytes or as ``"4GiB"``; by default this machine's is shared out.
    idle_timeout : float, optional
        Seconds without a run after which it stops by itself, 0 for never; by default the setting.
    resources : mapping, optional
        Dask resources of each worker, beside ``CPU`` and ``MEMORY``, as in ``{"GPU": 1}``.
    timeout : float
        Seconds that the start may take.
    progress : callable
        Is told each phase.

    Raises
    ------
    ClusterStartError
        When it does not come up; the message has the end of its log. Nothing is left of it.
    UsageError
        For a name or an option that can't be right.
    """
    options = _options(workers, threads, memory, idle_timeout, resources)
    check_name(name)
    deadline = time.monotonic() + timeout

    def waiting() -> None:
        progress(f"waiting for another process that starts or ends {name!r}")

    with registry.lock(name, timeout=timeout, waiting=waiting):
        current = registry.get(name)
        if current is not None and _is_up(current):
            if any(current.options.get(option) != value for option, value in options.items()):
                progress(f"{name!r} is up already, with other options; they stay")
            return _when_ready(current, deadline, progress)
        return _start(name, options, deadline, progress)


def alive(info: ClusterInfo) -> bool:
    """Whether the cluster's process runs; not whether it answers."""
    return process.is_alive(info.pid, info.started)


def down(info: ClusterInfo, *, timeout: float = 10.0) -> None:
    """End the cluster and every process of it, and forget it; its journals stay until records are complete.

    Parameters
    ----------
    timeout : float
        Seconds that it may take to end in good order, before it is killed.

    Raises
    ------
    ClusterError
        When it runs on another machine, or when a process survives being killed.
    """
    if registry.state(info) == "elsewhere":
        raise ClusterError(f"The cluster {info.name!r} was started on {info.host}.", "End it there.")
    with registry.lock(info.name, timeout=60.0):
        _end(info, timeout)
        registry.discard(info)
        if registry.get(info.name) is None:
            registry.forget(info.name)


def scale(
    info: ClusterInfo,
    n: int,
    group: str = DEFAULT_GROUP,
    *,
    timeout: float = 60.0,
    progress: Progress = silent,  # noqa: ARG001  # it is so when this returns
) -> ClusterInfo:
    """Have ``n`` workers; a worker without a session goes before one with it.

    Raises
    ------
    UsageError
        For less than one worker, or any group but the default one.
    ClusterLost
        When the scheduler is gone, or does not get there within ``timeout`` seconds.
    """
    check_only_group(info.name, group)
    _at_least("workers", n, 1)
    answer = wire.ask(info, "nbcloud_scale", n=n, timeout=timeout)
    if "error" in answer:
        raise ClusterError(
            f"The cluster {info.name!r} could not be scaled to {counted(n, 'worker')}: {answer['error']}."
        )
    return registry.get(info.name) or replace(info, workers=n)


def follow(info: ClusterInfo, group: str = DEFAULT_GROUP) -> None:
    """Refuse: a local cluster has as many workers as it was asked for.

    Raises
    ------
    UsageError
        Always.
    """
    check_only_group(info.name, group)
    raise UsageError(
        f"The workers of a local cluster, such as {info.name!r}, don't follow the work.",
        "Give a number: %cloud scale 4",
    )


# --- what was asked for ----------------------------------------------------------------------------------


def _options(
    workers: int | None,
    threads: int | None,
    memory: int | str | None,
    idle_timeout: float | None,
    resources: Mapping[str, float] | None,
) -> dict[str, Any]:
    memory = parse_bytes(memory) if isinstance(memory, str) else memory
    for option, value in (("workers", workers), ("threads", threads)):
        if value is not None:
            _at_least(option, value, 1)
    if memory is not None and (not isinstance(memory, int) or memory < _LEAST_MEMORY):
        raise UsageError(f"The memory of a worker can't be {memory!r} bytes.", "Give at least 128MiB.")
    if idle_timeout is not None and not idle_timeout >= 0:
        raise UsageError(f"The idle timeout can't be {idle_timeout!r}.", "Give seconds, or 0 for never.")
    for resource, amount in (resources or {}).items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not amount > 0:
            raise UsageError(f"The resource {resource!r} can't be {amount!r}.", "Give an amount above 0.")
    asked = {
        "workers": workers,
        "threads": threads,
        "memory": memory,
        "idle_timeout": idle_timeout,
        "resources": dict(resources) if resources else None,
    }
    return {option: value for option, value in asked.items() if value is not None}


def _at_least(option: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(
            f"The number of {option} can't be {value!r}.", f"Give a whole number of at least {least}."
        )


# --- start -----------------------------------------------------------------------------------------------


def _is_up(current: ClusterInfo) -> bool:
    """Whether the entry of our name is a cluster to take; cleans it away when it is a dead one."""
    if current.kind != "local":
        raise UsageError(
            f"{current.name!r} is the name of the cluster at {current.address}.",
            f"Use another name, or first type: %cloud down {current.name}",
        )
    state = registry.state(current)
    if state == "elsewhere":
        raise ClusterStartError(
            f"The cluster {current.name!r} was started on {current.host}, which shares this directory.",
            "Use another name, or another NBCLOUD_RUNTIME_DIR.",
        )
    if state == "dead":
        registry.discard(current)
    return state == "live"


def _start(name: str, options: dict[str, Any], deadline: float, progress: Progress) -> ClusterInfo:
    cluster_id = uuid.uuid4().hex[:8]
    directory = registry.folder() / f"{name}-{cluster_id}"
    info = ClusterInfo(
        name=name,
        id=cluster_id,
        kind="local",
        address="",
        created=time.time(),
        host=platform.node(),
        directory=str(directory),
        workers=options.get("workers", 0),
        threads=options.get("threads", 0),
        memory=options.get("memory", 0),
        idle_timeout=options.get("idle_timeout", settings().idle_timeout),
        options=options,
    )
    try:
        for part in (".", "journal", "spool", "scratch"):
            private_dir(directory / part)
        registry.write_private(directory / "spec.json", info.to_json())
        pid = _spawn(info, directory)
        info = replace(info, pid=pid, started=process.birth(pid) or "")
        # At once, so that a second caller finds it even when this one is killed while it waits.
        registry.put(info)
        ready = _when_ready(info, deadline, progress)
        registry.remember(name, options)
        return ready
    except BaseException:
        _end(info, timeout=0)
        registry.discard(info)
        raise


def _spawn(info: ClusterInfo, directory: Path) -> int:
    root = Path(__file__).parents[2]
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    with open(directory / "daemon.log", "ab", opener=registry.private_opener) as log:
        try:
            daemon = subprocess.Popen(
                # -P, because the working directory is no place to import from.
                [sys.executable, "-P", "-c", _BOOT, str(root), str(directory)],
                cwd=directory,
                env=_environment(info.id),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,
            )
        except OSError as error:
            raise ClusterStartError(f"No process could be started by {sys.executable!r}: {error}.") from error
    # Reaps it when it ends, which may be hours later: a zombie would stay until this kernel ends.
    threading.Thread(target=daemon.wait, name=f"nbcloud-reaper-{daemon.pid}", daemon=True).start()
    return daemon.pid


def _environment(cluster_id: str) -> dict[str, str]:
    """The environment of the caller; its relative paths made absolute, since the daemon works elsewhere."""
    environment = {**os.environ, process.MARK: cluster_id}
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(
            str(Path(part).absolute()) for part in path.split(os.pathsep)
        )
    for variable in ("NBCLOUD_RUNTIME_DIR", "NBCLOUD_DATA_DIR"):
        if variable in environment:
            environment[variable] = str(Path(environment[variable]).absolute())
    return environment


def _when_ready(info: ClusterInfo, deadline: float, progress: Progress) -> ClusterInfo:
    """Wait until the daemon has put its address into the registry."""
    told = ""
    while True:
        entry = registry.get(info.name)
        if entry is not None and entry.id == info.id and entry.ready:
            return entry
        if not alive(info):
            raise _failed(info, "ended before it was up")
        if time.monotonic() > deadline:
            raise _failed(info, "did not come up in time")
        phase = _read(info, "phase")
        if phase and phase != told:
            progress(phase)
            told = phase
        time.sleep(_POLL)


def _failed(info: ClusterInfo, how: str) -> ClusterStartError:
    log = "\n".join(_read(info, "daemon.log").strip().splitlines()[-_LOG_LINES:])
    ending = f"; its log ends with:\n{log}" if log else " and wrote nothing to its log."
    return ClusterStartError(f"The local cluster {info.name!r} {how}{ending}", log=log)


def _read(info: ClusterInfo, name: str) -> str:
    try:
        return (Path(info.directory or "") / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- end -------------------------------------------------------------------------------------------------


def _end(info: ClusterInfo, timeout: float) -> None:
    """End the cluster's processes: first by a word to the daemon, then by force."""
    pid = info.pid if alive(info) else None
    processes = process.members(pid, info.id)
    if pid is not None and timeout > 0:
        process.terminate(pid)
        process.wait_gone([each for each in processes if each.pid == pid], timeout)
    # Once more, for what was started after the first look.
    processes += [each for each in process.members(None, info.id) if each not in processes]
    if left := process.kill(processes):
        pids = ", ".join(str(each.pid) for each in left)
        raise ClusterError(f"Processes of the cluster {info.name!r} survive being killed: {pids}.")

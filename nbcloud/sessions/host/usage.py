"""What a run takes: processors and memory of its processes, and its GPUs, seen about every second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from nbcloud.sessions.host.nvml import Watch

FIRST = 0.5
"""Seconds before anybody looks: most cells are over by then, and need no thread of the worker's."""
EVERY = 1.0


@dataclass
class _Spread:
    """Maximum and mean of what was seen; no larger for a run of a week."""

    count: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.most = max(self.most, value)

    def summary(self, digits: int | None = None) -> dict[str, float]:
        return {"max": round(self.most, digits), "mean": round(self.total / self.count, digits)}


@dataclass
class Usage:
    """The usage of one run.

    Parameters
    ----------
    pid : int
        The kernel's; its children count, too.
    devices : list of str
        The session's GPUs.
    tell : callable, optional
        Is given each sample: ``cpus``, ``memory``, and ``gpus`` where there are some.
    """

    pid: int
    devices: list[str] = field(default_factory=list)
    tell: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        self._watch = Watch(self.devices)
        self._spent: dict[tuple[int, float], float] = {}
        self._when = 0.0
        self._cpus, self._memory = _Spread(), _Spread()
        self._gpus: dict[str, dict[str, _Spread]] = {}
        self._latest: dict[str, Any] = {}

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        await asyncio.sleep(FIRST)
        while True:
            # In a thread: on a machine with thousands of processes it takes its time to find the children.
            await asyncio.to_thread(self.look)
            if self.tell is not None and self._latest:
                self.tell(self._latest)
            await asyncio.sleep(EVERY)

    def look(self) -> None:
        """Take one sample; the first one is only what the next is compared with."""
        spent: dict[tuple[int, float], float] = {}
        memory = 0
        with contextlib.suppress(psutil.Error):
            kernel = psutil.Process(self.pid)
            for process in (kernel, *kernel.children(recursive=True)):
                with contextlib.suppress(psutil.Error), process.oneshot():
                    times = process.cpu_times()
                    spent[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_info().rss
        now, before = time.monotonic(), self._when
        if before and spent:
            # What a process had spent before it was seen, it has spent since the look before.
            seconds = sum(value - self._spent.get(key, 0.0) for key, value in spent.items())
            self._cpus.add(seconds / (now - before))
            self._memory.add(memory)
            found = self._watch.look()
            self._latest = {"cpus": round(seconds / (now - before), 2), "memory": memory}
            if found:
                self._latest["gpus"] = [{"device": device, **seen} for device, seen in found.items()]
            for device, seen in found.items():
                spreads = self._gpus.setdefault(device, {})
                for name, value in seen.items():
                    spreads.setdefault(name, _Spread()).add(value)
        self._spent, self._when = spent, now

    def summary(self) -> dict[str, Any]:
        """``cpus`` (processors in use), ``memory`` (bytes) and ``gpus``; empty for what was over too soon."""
        if not self._cpus.count:
            return {}
        summary: dict[str, Any] = {
            "samples": self._cpus.count,
            "cpus": self._cpus.summary(2),
            "memory": self._memory.summary(),
        }
        if self._gpus:
            summary["gpus"] = [
                {"device": device, **{name: spread.summary() for name, spread in spreads.items()}}
                for device, spreads in self._gpus.items()
            ]
        return summary

"""The Dask side of a local cluster: a scheduler and the nannies of its workers, in the daemon's process.

Imports distributed, so that only the daemon and its workers import this module.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import distributed
import psutil
from distributed.core import Status
from distributed.security import Security

from nbcloud.clusters import process

logger = logging.getLogger(__name__)

SESSION = "nbcloud-session"
"""Prefix of the keys of the long-running tasks that hold a session's resources."""

_FAREWELL_LIMIT = 3.0


class Scheduler(distributed.Scheduler):
    """A scheduler that serves no HTTP."""

    _clocks: tuple[float, float] | None = None

    def start_http_server(self, *args: Any, **options: Any) -> None:
        """Do nothing: Dask's HTTP server would listen even without routes, and asks for no certificate."""

    async def check_worker_ttl(self) -> None:
        """Look for workers that hang, but not right after the machine slept, when every worker looks late."""
        before, now = self._clocks, (time.time(), time.monotonic())
        self._clocks = now
        slept = before is not None and (now[0] - before[0]) - (now[1] - before[1]) > 1
        if not slept:
            await super().check_worker_ttl()


class Worker(distributed.Worker):
    """A worker that serves no HTTP, and tells its pid."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.startup_information["pid"] = lambda _: os.getpid()

    def start_http_server(self, *args: Any, **options: Any) -> None:
        """Do nothing, as in `Scheduler`."""


class Nodes:
    """A scheduler and ``n`` workers on 127.0.0.1, each under a nanny that starts it again when it dies.

    Dask's ``LocalCluster`` is this and more; it can't be told which worker to spare when it scales down,
    it gives a worker up that needs more than 15 s to come back, and it fixes the scheduler's class.

    Parameters
    ----------
    security : distributed.Security
        Certificates of both sides.
    worker : dict
        Options of each ``distributed.Nanny``: ``nthreads``, ``memory_limit`` (bytes), ``resources``, …
    """

    def __init__(self, security: Security, worker: dict[str, Any]) -> None:
        self._common = {"host": "127.0.0.1", "protocol": "tls", "security": security, "dashboard": False}
        self._worker = worker
        self._nannies: dict[int, distributed.Nanny] = {}
        self._lock = asyncio.Lock()
        self._scheduler: Scheduler | None = None

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler, once `start_scheduler` has ended."""
        assert self._scheduler is not None
        return self._scheduler

    async def start_scheduler(self) -> None:
        """Start the scheduler, on a port that is free."""
        self._scheduler = await Scheduler(port=0, dashboard_address=None, **self._common)

    async def scale(self, n: int) -> None:
        """Have ``n`` workers; a worker without a session goes before one with it."""
        async with self._lock:
            await self._open(
                [name for name in range(n + len(self._nannies)) if name not in self._nannies][
                    : max(0, n - len(self._nannies))
                ]
            )
            spare = sorted(self._nannies, key=self._load)[: max(0, len(self._nannies) - n)]
            await asyncio.gather(*(self._close(name) for name in spare))

    async def mend(self) -> None:
        """Replace the nannies that gave up, because the worker did not start again."""
        async with self._lock:
            broken = [
                name
                for name, nanny in self._nannies.items()
                if nanny.status in (Status.closed, Status.failed)
            ]
            for name in broken:
                del self._nannies[name]
            await self._open(broken)

    async def close(self) -> None:
        """Tell the sessions, end the workers, then the scheduler, which hears from them to the last."""
        if self._scheduler is not None and self._scheduler.status is Status.running:
            await _take_leave(self._scheduler)
        async with self._lock:
            await asyncio.gather(
                *(self._end(nanny) for nanny in self._nannies.values()), return_exceptions=True
            )
            self._nannies.clear()
        if self._scheduler is not None:
            await self._scheduler.close(reason="nbcloud-down")

    async def _open(self, names: list[int]) -> None:
        nannies = {name: self._nanny(name) for name in names}
        outcomes = await asyncio.gather(*nannies.values(), return_exceptions=True)
        for (name, nanny), outcome in zip(nannies.items(), outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                self._nannies[name] = nanny
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _nanny(self, name: int) -> distributed.Nanny:
        return distributed.Nanny(
            self.scheduler.address,
            name=name,
            worker_class=Worker,
            death_timeout=60,
            **self._common,
            **self._worker,
        )

    def _load(self, name: int) -> tuple[int, int, int, int]:
        """Sort key: what is lost when this worker goes."""
        worker = self.scheduler.workers.get(self._nannies[name].worker_address)
        if worker is None:
            return 0, 0, 0, -name
        sessions = sum(is_session(task.key) for task in worker.processing)
        return sessions, len(worker.processing), worker.nbytes, -name

    async def _close(self, name: int) -> None:
        nanny = self._nannies.pop(name)
        nanny.close_gracefully()
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                await self.scheduler.retire_workers([nanny.worker_address])
        await self._end(nanny)

    @staticmethod
    async def _end(nanny: distributed.Nanny) -> None:
        """Close a nanny, and whatever its worker had started and did not end."""
        started: list[psutil.Process] = []
        with suppress(psutil.Error):
            started = psutil.Process(nanny.pid).children(recursive=True) if nanny.pid else []
        try:
            await nanny.close()
        finally:
            await asyncio.to_thread(process.kill, started)


async def _take_leave(scheduler: distributed.Scheduler) -> None:
    """Have whoever uses a session hear why it ends, before all that they see is a worker that is gone."""
    plugin = scheduler.extensions.get("nbcloud")
    if plugin is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_LIMIT):
                await plugin.end_sessions("its cluster was stopped")


def is_session(key: Any) -> bool:
    """Whether the task of that key holds a session."""
    return str(key[0] if isinstance(key, tuple) else key).startswith(SESSION)


class Idleness:
    """For how long nothing has run on a scheduler.

    Sessions are tasks that never end, so that Dask's own idea of idle never comes true. The sessions'
    plugin, when there is one, is the scheduler's extension ``nbcloud`` with ``busy`` and ``last_active``.

    Time is counted by a clock that stands while the machine sleeps: a cluster is not gone in the morning
    because the laptop was closed in the evening.
    """

    _PENDING = frozenset({"processing", "queued", "waiting", "no-worker"})

    def __init__(self, scheduler: distributed.Scheduler, clock: Callable[[], float] = time.monotonic) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._since = clock()
        self._seen: tuple[Any, ...] = self._activity()

    def seconds(self) -> float:
        """Seconds since the last activity that this saw; call it more often than the limit that matters."""
        seen = self._activity()
        if seen != self._seen or self._busy():
            self._seen, self._since = seen, self._clock()
        return self._clock() - self._since

    def _activity(self) -> tuple[Any, ...]:
        plugin = self._scheduler.extensions.get("nbcloud")
        return self._scheduler.transition_counter, getattr(plugin, "last_active", None)

    def _busy(self) -> bool:
        if getattr(self._scheduler.extensions.get("nbcloud"), "busy", False):
            return True
        return any(
            task.state in self._PENDING and not is_session(task.key)
            for task in self._scheduler.tasks.values()
        )

"""Where sessions live: Dask decides, by a task for each session that holds its resources while it lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from distributed import Client, Future, Scheduler, Security

from nbcloud.sessions.host import hold_session

PREFIX = "nbcloud-session-"
_LOOK_AGAIN = 0.5


def _as_client(security: Security) -> Security:
    """The scheduler's own certificate, used to connect to itself."""
    if not security.tls_ca_file:
        return security
    return Security(
        tls_ca_file=security.tls_ca_file,
        tls_client_cert=security.tls_client_cert or security.tls_scheduler_cert,
        tls_client_key=security.tls_client_key or security.tls_scheduler_key,
        require_encryption=security.require_encryption,
    )


class Placement:
    """Session tasks of one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._client: Client | None = None
        self._futures: dict[str, Future] = {}
        self._lock = asyncio.Lock()

    def impossible(self, resources: dict[str, float]) -> str:
        """Why no worker of the cluster could ever hold these resources; empty when one could."""
        for name, wanted in resources.items():
            most = max(
                (state.resources.get(name, 0) for state in self._scheduler.workers.values()), default=None
            )
            if most is not None and wanted > most:
                return (
                    f"No worker of this cluster has {name} {wanted:g}: the largest has {most:g}. "
                    "Ask for less, or start a cluster with larger workers."
                )
        return ""

    def _phase(self, key: str, resources: dict[str, float]) -> str:
        task = self._scheduler.tasks.get(key)
        if not self._scheduler.workers:
            return "waiting for a worker to join the cluster"
        if task is not None and task.state in {"no-worker", "queued"} and not resources:
            return "waiting for a worker that is free"
        if task is not None and task.state in {"no-worker", "queued"}:
            wanted = ", ".join(f"{name} {amount:g}" for name, amount in resources.items())
            return f"waiting in the queue: {wanted} is taken on every worker"
        if task is not None and task.processing_on is not None:
            held = task.processing_on.used_resources
            short = [
                name
                for name, amount in resources.items()
                if held.get(name, 0) > task.processing_on.resources[name]
            ]
            if short:
                return f"waiting in the queue: {', '.join(short)} of {task.processing_on.address} is taken"
        return "starting a kernel"

    async def place(
        self, name: str, resources: dict[str, float], memory: int | None, taken: list[str], silent: set[str]
    ) -> AsyncIterator[str]:
        """Start the session ``name`` somewhere; yields the phases of its start, for ever.

        Parameters
        ----------
        name : str
        resources : dict
            Dask resources, held as long as the session lives.
        memory : int or None
            The most bytes that its kernel may take.
        taken : list of str
            Workers of the sessions there are; without resources to decide it, that with the fewest is
            taken.
        silent : set of str
            Workers that do not answer.
        """
        async with self._lock:
            if self._client is None:
                self._client = await Client(
                    self._scheduler.address,
                    asynchronous=True,
                    security=_as_client(self._scheduler.security),
                    set_as_default=False,
                    name="nbcloud-journal",
                )
        workers = [worker for worker in self._scheduler.workers if worker not in silent]
        where: dict[str, Any] = {}
        if not resources and workers:
            where = {"workers": [min(workers, key=taken.count)], "allow_other_workers": True}
        elif silent and workers:
            where = {"workers": workers}
        self._futures[name] = self._client.submit(
            hold_session,
            name,
            memory,
            key=PREFIX + name,
            resources=resources or None,
            pure=False,
            retries=0,
            **where,
        )
        while name in self._futures:
            future = self._futures[name]
            if future.status == "error":
                raise RuntimeError(str(await future.exception()))
            yield self._phase(PREFIX + name, resources)
            await asyncio.sleep(_LOOK_AGAIN)

    def release(self, name: str) -> None:
        """The session is over: let its task and resources go."""
        future = self._futures.pop(name, None)
        if future is not None:
            future.release()

    async def close(self) -> None:
        """End with the scheduler."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.close(timeout=1)

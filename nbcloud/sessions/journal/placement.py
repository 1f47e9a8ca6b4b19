"""Where sessions live: each has a Dask task that holds its resources, on a worker that has them to spare."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from distributed import Client, Future, Scheduler, Security
from distributed.scheduler import TaskState, WorkerState

from nbcloud.sessions.host.arrival import hold_session
from nbcloud.sessions.journal.refusals import amounts_text, held_text, taken_text, too_few, too_large

PREFIX = "nbcloud-session-"
_LOOK_AGAIN = 0.5
_STARTING = "starting a kernel"
_ROUNDING = 1e-9


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


def _times(there: dict[str, float], wanted: dict[str, float], most: int) -> int:
    """How many times, ``most`` at most, the wanted resources are there."""
    times = [int(there.get(name, 0) / amount + _ROUNDING) for name, amount in wanted.items()]
    return max(0, min([most, *times]))


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
        self._attempts = 0
        self._waiting: dict[str, dict[str, float]] = {}
        """What the sessions ask for that have no worker yet, in the order in which they asked."""
        self._promised: dict[str, tuple[str, dict[str, float]]] = {}
        """The worker that a session was given, and what it holds there."""
        self._members: dict[str, Sequence[str]] = {}
        """The sessions of each gang."""
        self._lock = asyncio.Lock()
        self.title: Callable[[str], str] = str
        """Gives the name of a session, or that of the gang of a member, by id."""

    def impossible(self, resources: dict[str, float], size: int = 1) -> str:
        """Why the cluster could never hold these resources so many times; empty when it could."""
        workers = self._capacity()
        for name, wanted in resources.items():
            most = max((worker.get(name, 0) for worker in workers), default=None)
            if most is not None and wanted > most:
                return too_large(name, wanted, most, managed=self._steward is not None)
        room = sum(_times(worker, resources, size) for worker in workers)
        if room < size and workers:
            return too_few(room, size, resources, managed=self._steward is not None)
        return ""

    @property
    def _steward(self) -> Any:
        """Whoever looks after the number of workers, if anyone does."""
        return self._scheduler.extensions.get("nbcloud-steward")

    def _capacity(self) -> list[dict[str, float]]:
        """The resources of each worker that there is, or that whoever looks after their number may add."""
        there = [dict(state.resources) for state in self._scheduler.workers.values()]
        potential: list[dict[str, float]] = self._steward.potential() if self._steward is not None else []
        return potential if len(potential) > len(there) else there

    def waiting(self) -> list[dict[str, float]]:
        """What the sessions ask for that have no worker yet, in the order in which they asked."""
        unplaced: list[dict[str, float]] = [
            {} for name in self._futures if name not in self._promised and self._no_worker(name)
        ]
        waiting = [r for name, r in self._waiting.items() for _ in self._members.get(name, (name,))]
        return [*waiting, *unplaced]

    def _no_worker(self, name: str) -> bool:
        task = self._task(name)
        return task is None or task.state in {"no-worker", "queued", "waiting"}

    def given_to(self, worker: str) -> list[str]:
        """The sessions that are on a worker or on their way to it, also before their kernels are there."""
        promised = [name for name, (chosen, _) in self._promised.items() if chosen == worker]
        tasks = {name: self._task(name) for name in self._futures if name not in self._promised}
        taken = [
            name
            for name, task in tasks.items()
            if task is not None and task.processing_on is not None and task.processing_on.address == worker
        ]
        return [*promised, *taken]

    def default_resources(self) -> dict[str, float]:
        """What each of a gang holds that asked for nothing: a processor, where workers count these."""
        workers = self._scheduler.workers.values()
        return {"CPU": 1.0} if not workers or any("CPU" in state.resources for state in workers) else {}

    def _task(self, name: str) -> TaskState | None:
        return self._scheduler.tasks.get(self._futures[name].key) if name in self._futures else None

    def _on_its_way(self, name: str) -> bool:
        """Whether the scheduler has not yet counted what the session's task takes."""
        task = self._task(name)
        return task is None or task.state in {"released", "waiting", "queued", "no-worker"}

    def _fits(self, state: WorkerState, resources: dict[str, float]) -> bool:
        """Whether the worker has so much that neither a task holds nor a session was promised."""
        return self._room(state, resources, 1) == 1

    def _room(self, state: WorkerState, resources: dict[str, float], most: int) -> int:
        """How many times, ``most`` at most, the worker could hold so much now."""
        promised = [
            held
            for name, (worker, held) in self._promised.items()
            if worker == state.address and self._on_its_way(name)
        ]
        left = {
            name: state.resources.get(name, 0)
            - state.used_resources.get(name, 0)
            - sum(held.get(name, 0) for held in promised)
            for name in resources
        }
        return _times(left, resources, most)

    def _size(self, name: str) -> int:
        return len(self._members.get(name, (name,)))

    def _choose(self, name: str, silent: set[str], since: float) -> list[str]:
        """The workers for the session or gang whose turn it is; none while not all of it finds a place."""
        resources, size = self._waiting[name], self._size(name)
        # One that no worker can hold at present, because a large one left, keeps nobody from their turn.
        possible = (each for each, r in self._waiting.items() if not self.impossible(r, self._size(each)))
        if name != next(possible, ""):
            return []
        room = {
            state.address: self._room(state, resources, size)
            for state in self._scheduler.running
            if state.address not in silent or state.last_seen > since  # it may be back meanwhile
        }
        busy = {state.address: self._sessions(state) for state in self._scheduler.running}
        chosen: list[str] = []
        for _ in range(size):
            free = [worker for worker, times in room.items() if times > chosen.count(worker)]
            if not free:
                return []
            chosen.append(min(free, key=lambda worker: (chosen.count(worker), busy[worker])))
        return sorted(chosen)  # neighbours have ranks that follow each other

    def _sessions(self, state: WorkerState) -> int:
        """How many sessions are on the worker, or about to be."""
        there = sum(str(task.key).startswith(PREFIX) for task in state.processing)
        coming = [name for name, (worker, _) in self._promised.items() if worker == state.address]
        return there + sum(map(self._on_its_way, coming))

    def _queue(self, name: str) -> str:
        """Why the session waits for its turn."""
        resources = self._waiting[name]
        if not self._scheduler.workers:
            return "waiting for a worker to join the cluster"
        wanted, size = amounts_text(resources), self._size(name)
        if self.impossible(resources):
            return f"waiting for a worker that has {wanted}"
        able = [each for each in self._scheduler.workers.values() if _times(each.resources, resources, 1)]
        if not able:
            return f"waiting for a worker with {wanted} to join the cluster"
        room = sum(self._room(state, resources, size) for state in self._scheduler.running)
        if room >= size:
            return "waiting in the queue: another session asked first"
        if size > 1:
            why = f"there is room for {room} of {size} workers with {wanted}"
        else:
            why = taken_text(resources)
        return f"waiting in the queue: {why}{held_text(self._holders(resources, able))}"

    def _holders(self, resources: dict[str, float], able: list[WorkerState]) -> list[str]:
        """Names of the sessions that hold any of these resources on these workers."""
        there = {state.address for state in able}
        found = [
            self.title(session)
            for session, (worker, held) in self._promised.items()
            if worker in there and held.keys() & resources.keys()
        ]
        return list(dict.fromkeys(found))

    def _phase(self, name: str) -> str:
        """How far the start of a session is whose task was submitted."""
        task = self._task(name)
        if not self._scheduler.workers:
            return "waiting for a worker to join the cluster"
        if task is not None and task.state in {"no-worker", "queued"}:
            return "waiting for a worker that is free"
        return _STARTING

    def _trouble(self) -> str:
        """What keeps workers from coming, as far as whoever looks after their number knows."""
        trouble = getattr(self._steward, "trouble", "")
        return f" ({trouble})" if trouble else ""

    async def place(
        self,
        name: str,
        resources: dict[str, float],
        memory: int | None,
        taken: list[str],
        silent: set[str],
        members: Sequence[str] = (),
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
        members : sequence of str
            Of a gang: its sessions, which are placed all at once or not at all.
        """
        since = time.time()
        if members:
            self._members[name] = members
        self._waiting[name] = resources
        async with self._lock:
            if self._client is None:
                # Known before it is connected, so that the end of the scheduler finds it, too.
                self._client = Client(
                    self._scheduler.address,
                    asynchronous=True,
                    security=_as_client(self._scheduler.security),
                    set_as_default=False,
                    name="nbcloud-journal",
                )
            try:
                await self._client
            except Exception:
                self._client = None  # the next session tries again
                raise
        if not resources and not members and self._waiting.pop(name, None) is not None:
            workers = [worker for worker in self._scheduler.workers if worker not in silent]
            self._submit(name, memory, None, [min(workers, key=taken.count)] if workers else [])
        first = (members or [name])[0]
        while name in self._waiting or first in self._futures:
            # Dask would give the task to a worker at once, and leave it there in line although another
            # worker becomes free: so it gets the task when there is a worker that can run it.
            if name in self._waiting and (workers := self._choose(name, silent, since)):
                del self._waiting[name]
                for each, worker in zip(members or [name], workers, strict=True):
                    self._promised[each] = worker, resources
                    self._submit(each, memory, resources, [worker])
            if name in self._waiting:
                yield self._queue(name) + self._trouble()
            else:
                for each in members or [name]:
                    future = self._futures[each]
                    if future.status == "error":
                        raise RuntimeError(str(await future.exception()))
                phase = self._phase(first)
                yield phase if phase == _STARTING else phase + self._trouble()
                if members:
                    self._check_workers(members)
                else:
                    self._withdraw_from_lost(name)
            await asyncio.sleep(_LOOK_AGAIN)

    def _submit(
        self, name: str, memory: int | None, resources: dict[str, float] | None, workers: list[str]
    ) -> None:
        assert self._client is not None
        self._attempts += 1
        self._futures[name] = self._client.submit(
            hold_session,
            name,
            memory,
            int((resources or {}).get("GPU", 0)),
            key=f"{PREFIX}{name}-{self._attempts}",
            resources=resources,
            workers=workers or None,
            allow_other_workers=bool(workers) and resources is None,
            pure=False,
            retries=0,
        )

    def _withdraw_from_lost(self, name: str) -> None:
        """Have a session wait again, before all others, whose worker left before it had begun there."""
        if name not in self._promised or name not in self._futures:
            return
        worker, resources = self._promised[name]
        if worker not in self._scheduler.workers:
            self.release(name)
            self._waiting = {name: resources, **self._waiting}

    def _check_workers(self, members: Sequence[str]) -> None:
        """A gang's workers stay until all of its kernels are there."""
        promised = [self._promised[member] for member in members if member in self._promised]
        gone = [worker for worker, _ in promised if worker not in self._scheduler.workers]
        if gone:
            raise RuntimeError(f"the worker {gone[0]} left meanwhile")

    def release(self, name: str) -> None:
        """The session is over: let its task and resources go, or its place in the queue."""
        self._waiting.pop(name, None)
        self._promised.pop(name, None)
        future = self._futures.pop(name, None)
        if future is not None:
            future.release()
        for member in self._members.pop(name, ()):
            self.release(member)

    async def close(self) -> None:
        """End with the scheduler."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.close(timeout=1)

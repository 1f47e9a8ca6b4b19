"""In the scheduler's pod: has as many workers as the work needs, and ends a cluster that nobody uses.

A preload of ``dask scheduler``. It needs Dask and nothing else, because the image is anybody's. What it
changes, it asks of Kubernetes with the pod's own account: the number of a group's workers, which the operator
then makes; the removal of a worker that it has retired, because the operator would choose by itself; and the
removal of the cluster.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Iterable
from typing import Any

from distributed import Scheduler
from distributed.scheduler import WorkerState

from nbcloud.clusters.kubernetes.demand import Group, Want, wanted_workers
from nbcloud.clusters.kubernetes.pod_account import DASK, PodAccount
from nbcloud.clusters.nodes import Idleness, is_session

logger = logging.getLogger(__name__)

EXTENSION = "nbcloud-steward"
_VARIABLE = "_NBCLOUD_STEWARD"
_PERIOD = 1.0
_GRACE = 600.0
"""Seconds that a cluster may stand without that a client ever came."""


async def dask_setup(scheduler: Scheduler) -> None:
    """Begin, as a preload; without its variable there is nothing to do."""
    text = os.environ.get(_VARIABLE)
    if text:
        scheduler.extensions[EXTENSION] = Steward(scheduler, json.loads(text))


async def dask_teardown(scheduler: Scheduler) -> None:
    """End with the scheduler."""
    steward = scheduler.extensions.get(EXTENSION)
    if steward is not None:
        steward.close()


class Steward:
    """Looks after one cluster.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    facts : dict
        As `manifests` wrote them.
    """

    def __init__(self, scheduler: Scheduler, facts: dict[str, Any]) -> None:
        self._scheduler = scheduler
        self._name = facts["name"]
        self._idle_timeout = facts["idle_timeout"]
        self._groups = {key: Group(key=key, **group) for key, group in facts["groups"].items()}
        self._kubernetes = PodAccount(facts["namespace"], facts["account"]) if facts["account"] else None
        self._idle = Idleness(scheduler)
        self._began = time.monotonic()
        self._idle_since: dict[str, float] = {}
        self._paid = _Meter()
        self.trouble = ""
        """What keeps workers from coming, for which somebody waits."""
        scheduler.handlers["nbcloud_scale"] = self.scale
        scheduler.handlers["nbcloud_follow"] = self.follow
        scheduler.handlers["nbcloud_cost"] = self.cost
        self._task = asyncio.create_task(self._watch(), name=EXTENSION)

    def close(self) -> None:
        """End."""
        self._task.cancel()

    def potential(self) -> list[dict[str, float]]:
        """The Dask resources of each worker that there may be at most."""
        can_grow = self._kubernetes is not None
        return [
            group.resources
            for group in self._groups.values()
            for _ in range(group.maximum if can_grow else group.minimum)
        ]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD)
            self._paid.tick(self._counted())
            if self._kubernetes is None:
                continue
            # One must not keep the others from being done.
            for work in (self._adapt, self._explain, self._end_when_idle):
                try:
                    await work(self._kubernetes)
                except Exception:
                    logger.exception("The steward could not do its work; trying again")
                    await asyncio.sleep(5 * _PERIOD)

    async def _end_when_idle(self, kubernetes: PodAccount) -> None:
        if self._is_idle():
            logger.warning("Nothing ran for %g s: the cluster ends", self._idle_timeout)
            await kubernetes.delete(DASK, "daskclusters", self._name)

    async def _explain(self, kubernetes: PodAccount) -> None:
        self.trouble = await self._look(kubernetes) if self._wants() else ""

    def _is_idle(self) -> bool:
        seconds = self._idle.seconds()
        if not self._idle_timeout:
            return False
        # Time counts from the first client on: the pods of a large cluster may take longer than the timeout.
        came = getattr(self._scheduler.extensions.get("nbcloud"), "visited", False)
        if not came and time.monotonic() - self._began < max(_GRACE, self._idle_timeout):
            return False
        return bool(seconds > self._idle_timeout)

    async def _look(self, kubernetes: PodAccount) -> str:
        """Why pods of workers don't run, as sentences without ends."""
        try:
            from nbcloud.clusters.kubernetes.phases import of_pod
        except ImportError:  # the image lacks what this needs
            return ""
        pods = await kubernetes.workers(self._name)
        found = [trouble.text for pod in pods if (trouble := of_pod(pod, {})) is not None]
        return "; ".join(dict.fromkeys(found))

    # Cost

    def _counted(self) -> dict[str, float]:
        """Workers that have joined, by group."""
        found: dict[str, float] = {}
        for state in self._scheduler.workers.values():
            group = self._group_of(state.name)
            if group is not None:
                found[group.key] = found.get(group.key, 0.0) + 1
        return {key: found.get(key, 0.0) for key in self._groups}

    async def cost(self) -> dict[str, Any]:
        """Handle ``nbcloud_cost``: worker hours of each group since the start, and its price."""
        self._paid.tick(self._counted())
        return {
            key: {"hours": self._paid.hours.get(key, 0.0), "price": group.price}
            for key, group in self._groups.items()
        }

    # Numbers of workers

    def _group_of(self, worker: object) -> Group | None:
        name = str(worker)
        fitting = [group for group in self._groups.values() if name.startswith(f"{group.object}-worker-")]
        return max(fitting, key=lambda group: len(group.object), default=None)

    def _members(self, group: Group) -> list[WorkerState]:
        workers = self._scheduler.workers.values()
        return [state for state in workers if self._group_of(state.name) is group]

    def _wants(self) -> list[Want]:
        """What waits for a worker: sessions, and Dask's own tasks."""
        journal = self._scheduler.extensions.get("nbcloud")
        wants = [Want(resources, 1) for resources in (journal.waiting() if journal is not None else [])]
        tasks: dict[str, Want] = {}
        for task in (*self._scheduler.unrunnable, *self._scheduler.queued):
            resources = dict(task.resource_restrictions or {})
            if not is_session(task.key):
                key = json.dumps(resources, sort_keys=True)
                tasks.setdefault(key, Want(resources, 0, is_tasks=True)).count += 1
        return [*wants, *tasks.values()]

    async def _adapt(self, kubernetes: PodAccount) -> None:
        adaptive = [group for group in self._groups.values() if group.is_adaptive]
        if not adaptive:
            return
        for group in adaptive:
            group.replicas = await kubernetes.replicas(group.object)
            group.joined = len(self._members(group))
        more = wanted_workers(self._wants(), list(self._groups.values()), self._free())
        for group in adaptive:
            target = min(group.maximum, max(group.minimum, group.joined + more.get(group.key, 0)))
            if target > group.replicas:
                logger.info("The group %s grows to %d workers", group.key, target)
                await kubernetes.set_replicas(group.object, target)
            elif not more.get(group.key):
                await self._shrink(kubernetes, group)

    def _free(self) -> list[dict[str, float]]:
        """What each worker has that nobody holds."""
        return [
            {name: amount - state.used_resources.get(name, 0) for name, amount in state.resources.items()}
            for state in self._scheduler.running
        ]

    async def _shrink(self, kubernetes: PodAccount, group: Group) -> None:
        """Let workers go that nobody waits for any more, or that have been idle for long enough."""
        members = {str(state.name) for state in self._members(group)}
        surplus = group.replicas - max(group.minimum, len(members))
        if surplus > 0:  # their pods have not come up, perhaps because no node can take them
            names = [name for name in await kubernetes.worker_names(group.object) if name not in members]
            await kubernetes.remove_workers(group.object, names[:surplus], group.replicas - surplus)
            return
        now = time.monotonic()
        self._idle_since = {key: at for key, at in self._idle_since.items() if key in self._scheduler.workers}
        spare = []
        for state in self._members(group):
            if self._is_used(state, group):
                self._idle_since.pop(state.address, None)
            elif now - self._idle_since.setdefault(state.address, now) >= group.idle:
                spare.append(state)
        many = max(0, group.replicas - group.minimum)
        spare = spare[-many:] if many else []
        if spare:
            names = [str(state.name) for state in spare]
            logger.info("The group %s shrinks by %s", group.key, names)
            await self._retire(spare, "its worker was given back, because it had nothing to do")
            await kubernetes.remove_workers(group.object, names, group.replicas - len(names))

    def _is_used(self, state: WorkerState, group: Group) -> bool:
        """Whether a worker has anything that would be lost with it."""
        if any(not is_session(task.key) for task in state.processing) or self._sole_holdings(state):
            return True
        journal = self._scheduler.extensions.get("nbcloud")
        seconds = journal.idle_seconds(state.address) if journal is not None else math.inf
        if seconds is None:  # a session is at work there, or on its way
            return True
        return bool(state.processing) and (not group.idle_sessions or seconds < group.idle_sessions)

    @staticmethod
    def _sole_holdings(state: WorkerState) -> list[Any]:
        """Results that only this worker has and somebody still wants."""
        return [task for task in state.has_what if len(task.who_has or ()) == 1 and task.who_wants]

    async def _retire(self, states: Iterable[WorkerState], why: str) -> None:
        states = list(states)
        journal = self._scheduler.extensions.get("nbcloud")
        for state in states:
            if journal is not None:
                journal.release(state.address, why)
        await self._scheduler.retire_workers(
            workers=[state.address for state in states], close_workers=False, remove=False
        )

    async def scale(self, group: str, n: int, candidates: list[str]) -> dict[str, Any]:
        """Handle ``nbcloud_scale``: a group has a fixed number from now on; says which workers are to go.

        Parameters
        ----------
        candidates : list of str
            The group's workers as Kubernetes knows them, those included that never joined.
        """
        found = self._groups[group]
        joined = {str(state.name): state for state in self._members(found)}
        order = sorted(candidates, key=lambda name: self._loss(joined.get(name)))
        chosen = order[: max(0, len(candidates) - n)]
        going = [name for name in chosen if name not in joined or not self._is_busy(joined[name])]
        kept = len(chosen) - len(going)
        # Those that are busy go when they no longer are.
        found.minimum, found.maximum = n, n + kept
        why = f"its worker went when the group {group!r} was scaled to {n}"
        await self._retire([joined[name] for name in going if name in joined], why)
        return {"going": going, "replicas": n + kept, "busy": kept}

    async def follow(self, group: str) -> bool:
        """Handle ``nbcloud_follow``: a group's number follows the work again; says whether it can."""
        self._groups[group].follow()
        return self._kubernetes is not None

    def _is_busy(self, state: WorkerState) -> bool:
        """Whether anything runs on a worker at this moment."""
        if any(not is_session(task.key) for task in state.processing):
            return True
        journal = self._scheduler.extensions.get("nbcloud")
        return journal is not None and journal.idle_seconds(state.address) is None

    def _loss(self, state: WorkerState | None) -> tuple[int, int, int, int]:
        """Sort key: what is lost when this worker goes; least when it never joined."""
        if state is None:
            return -1, 0, 0, 0
        sessions = sum(is_session(task.key) for task in state.processing)
        return self._is_busy(state), sessions, len(state.processing), state.nbytes


class _Meter:
    """Adds up hours."""

    def __init__(self) -> None:
        self.hours: dict[str, float] = {}
        self._last = time.monotonic()

    def tick(self, now: dict[str, float]) -> None:
        """``now`` workers there have been since the last call."""
        at = time.monotonic()
        for key, number in now.items():
            self.hours[key] = self.hours.get(key, 0.0) + number * (at - self._last) / 3600
        self._last = at

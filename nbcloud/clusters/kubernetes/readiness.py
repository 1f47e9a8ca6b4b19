"""A start is watched: how far it is, what keeps it, and when it is given up."""

from __future__ import annotations

import asyncio
import time

from nbcloud.clusters import wire
from nbcloud.clusters.base import ClusterInfo, Progress
from nbcloud.clusters.kubernetes import forward, manifests, naming, phases, thread
from nbcloud.clusters.kubernetes.api import POLL, Api, connect
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.config.profiles import KubernetesProfile
from nbcloud.errors import ClusterError, ClusterLost, ClusterStartError

_ANSWER = 3.0
_OUTAGE = 30.0
"""Seconds that the API server may be away during a start."""
_CALM = 5.0
"""Seconds without trouble after which it counts as over: what crashes looks well for a moment each time."""
_LOG_LINES = 15

Since = dict[tuple[str, str], tuple[float, float]]
"""When each trouble, by what it is about and its kind, was first and last seen."""


def when_ready(
    info: ClusterInfo, settings: KubernetesProfile, expected: int, progress: Progress
) -> ClusterInfo:
    """Wait until the scheduler answers and every worker has joined that finds a node."""
    deadline = time.monotonic() + settings.start_timeout
    since: Since = {}
    place = thread.run(connect(Where.of(info.options)))
    complete = False
    answered = time.monotonic()
    while True:
        try:
            seen = thread.run(phases.look(place, info.options["object"]))
            answered = time.monotonic()
        except ClusterLost as error:
            if time.monotonic() - answered > _OUTAGE:
                raise
            progress(error.message.rstrip("."))
            time.sleep(POLL)
            continue
        if seen.phase == "gone":
            raise ClusterStartError(f"The cluster {info.name!r} was deleted meanwhile.")
        _give_up(place, info, seen, since)
        complete = complete or thread.run(_complete(place, info, settings))
        # Whether an operator acts shows only after a while.
        told = [trouble.text for trouble in seen.troubles if trouble.kind != "operator"]
        phase = "; ".join([seen.phase, *dict.fromkeys(told)])
        if seen.running.get("scheduler"):
            joined = _joined(info)
            wanted = max(expected, sum(n for about, n in seen.wanted.items() if about != "scheduler"))
            if joined is not None and complete and _is_enough(joined, wanted, seen):
                return info
            if joined is not None and not seen.troubles:
                phase = f"{joined} of {wanted} workers have joined"
        progress(phase)
        if time.monotonic() > deadline:
            raise ClusterStartError(
                f"The cluster {info.name!r} did not come up within {settings.start_timeout:g} s: {phase}.",
                next((trouble.hint for trouble in seen.troubles if trouble.hint), "See: nbcloud doctor"),
            )
        time.sleep(POLL)


async def _complete(place: Api, info: ClusterInfo, settings: KubernetesProfile) -> bool:
    """Make the groups of workers that are lacking; returns whether none is.

    Not before the scheduler's service is there: a worker that can't find its address ends, and is not started
    again at once.
    """
    if not settings.groups:
        return True
    name = info.options["object"]
    if await place.get("Service", f"{name}-scheduler") is None:
        return False
    there = {each["metadata"]["name"] for each in await place.find("DaskWorkerGroup", {naming.CLUSTER: name})}
    wanted = manifests.plan(info.name, settings, place.namespace, ("", "", "")).groups
    lacking = [group for group in wanted if group["metadata"]["name"] not in there]
    await asyncio.gather(*(place.make(group) for group in lacking))
    return True


def _is_enough(joined: int, wanted: int, seen: phases.Look) -> bool:
    kept = sum(trouble.kind == "node" and trouble.about != "scheduler" for trouble in seen.troubles)
    return joined >= wanted - kept and (joined > 0 or wanted == 0)


def _joined(info: ClusterInfo) -> int | None:
    """How many workers the scheduler has; None while it does not answer."""
    try:
        return len(wire.ask(info, "identity", timeout=_ANSWER)["workers"])
    except ClusterLost:
        if "403" in (refusal := forward.trouble(info)):
            raise ClusterError(
                f"Kubernetes lets you not through to the scheduler: {refusal}.",
                "See: nbcloud kubernetes rbac",
            ) from None
        return None


def _give_up(place: Api, info: ClusterInfo, seen: phases.Look, since: Since) -> None:
    """Raise when something has been wrong for longer than it may."""
    now = time.monotonic()
    current = {(trouble.about, trouble.kind): trouble for trouble in reversed(seen.troubles)}
    for key in since.keys() & current.keys():
        since[key] = since[key][0], now
    for key in [key for key, (_, last) in since.items() if now - last > _CALM]:
        del since[key]
    for key, trouble in reversed(current.items()):
        began, _ = since.setdefault(key, (now, now))
        if now - began < trouble.patience:
            continue
        log = thread.run(_log_of(place, trouble.pod)) if trouble.pod else ""
        ending = f"; its log ends with:\n{log}\n" if log else "."
        raise ClusterStartError(
            f"The cluster {info.name!r} does not come up: {trouble.text}{ending}", trouble.hint, log=log
        )


async def _log_of(place: Api, pod: str) -> str:
    text = await place.log(pod, lines=_LOG_LINES, previous=True)
    return text or await place.log(pod, lines=_LOG_LINES)

"""When a cluster is idle, and when a worker hangs: by clocks that the test turns."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import distributed
import pytest

from nbcloud.clusters import nodes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def scheduler(*tasks: tuple[Any, str], **plugin: Any) -> Any:
    """As much of a scheduler as `Idleness` looks at."""
    return SimpleNamespace(
        extensions={"nbcloud": SimpleNamespace(**plugin)} if plugin else {},
        tasks={key: SimpleNamespace(key=key, state=state) for key, state in tasks},
        transition_counter=0,
    )


def seconds_idle(subject: Any, after: float = 100.0) -> float:
    clock = Clock()
    idle = nodes.Idleness(subject, clock)
    clock.now = after
    return idle.seconds()


def test_an_empty_scheduler_is_idle_from_its_start() -> None:
    assert seconds_idle(scheduler()) == 100


@pytest.mark.parametrize("state", ["processing", "queued", "waiting", "no-worker"])
def test_pending_tasks_are_work(state: str) -> None:
    assert seconds_idle(scheduler(("inc-1", state))) == 0
    assert seconds_idle(scheduler((("x", 0), state))) == 0


@pytest.mark.parametrize("state", ["memory", "erred", "released"])
def test_results_are_no_work(state: str) -> None:
    assert seconds_idle(scheduler(("inc-1", state))) == 100


def test_the_task_that_holds_a_session_is_no_work() -> None:
    assert seconds_idle(scheduler(("nbcloud-session-a", "processing"))) == 100
    assert seconds_idle(scheduler((("nbcloud-session-a", 1), "processing"))) == 100


def test_a_busy_session_is_work() -> None:
    assert seconds_idle(scheduler(busy=True, last_active=0.0)) == 0
    assert seconds_idle(scheduler(busy=False, last_active=0.0)) == 100


def test_activity_between_two_looks_counts() -> None:
    subject = scheduler(busy=False, last_active=5.0)
    clock = Clock()
    idle = nodes.Idleness(subject, clock)
    clock.now = 10
    assert idle.seconds() == 10
    subject.extensions["nbcloud"].last_active = 6.0
    assert idle.seconds() == 0
    clock.now = 20
    assert idle.seconds() == 10
    subject.transition_counter += 1
    assert idle.seconds() == 0


def test_a_worker_that_is_late_because_the_machine_slept_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []

    async def look(self: Any) -> None:
        looked.append(clocks["time"])

    clocks = {"time": 1000.0, "monotonic": 0.0}
    monkeypatch.setattr(distributed.Scheduler, "check_worker_ttl", look)
    monkeypatch.setattr(nodes.time, "time", lambda: clocks["time"])
    monkeypatch.setattr(nodes.time, "monotonic", lambda: clocks["monotonic"])
    subject = object.__new__(nodes.Scheduler)

    def pass_time(awake: float, asleep: float) -> None:
        clocks["time"] += awake + asleep
        clocks["monotonic"] += awake
        asyncio.run(subject.check_worker_ttl())

    pass_time(300, 0)
    pass_time(300, 0)
    pass_time(300, 9 * 3600)
    pass_time(300, 0)
    assert looked == [1300.0, 1600.0, 34600.0]

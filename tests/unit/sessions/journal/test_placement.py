"""Sessions and workers of a real cluster: who gets what, in which order, and what happens meanwhile."""

import asyncio
import contextlib
import threading

import pytest
from distributed import Scheduler, Worker, get_worker, secede

from nbcloud.sessions.journal import placement as placement_module
from nbcloud.sessions.journal.placement import Placement
from nbcloud.sessions.journal.refusals import amounts_text, held_text, taken_text

held = {}
released = {}


def hold(session, memory, gpus=0):
    """As a session's task: it holds its resources until the test lets it go."""
    secede()
    held[session] = get_worker().address
    released.setdefault(session, threading.Event()).wait(30)


class Cluster:
    """Workers of one CPU each, and sessions that want to be on them."""

    def __init__(self):
        self.phases = {}
        self.asked = {}

    async def __aenter__(self):
        self.scheduler = await Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0")
        self.placement = Placement(self.scheduler)
        self.workers = []
        for _ in range(2):
            await self.add_worker()
        return self

    async def __aexit__(self, *error):
        for event in released.values():
            event.set()
        for name in list(self.asked):
            self.end(name)
        await asyncio.gather(*self.asked.values())
        await self.placement.close()
        for worker in self.workers:
            await worker.close()
        await self.scheduler.close()

    async def add_worker(self):
        options = {"nthreads": 1, "resources": {"CPU": 1}, "dashboard_address": "127.0.0.1:0"}
        self.workers.append(await Worker(self.scheduler.address, host="127.0.0.1", **options))

    def ask(self, name, cpus=1, silent=(), members=()):
        async def place():
            async with contextlib.aclosing(
                self.placement.place(name, {"CPU": cpus}, None, [], set(silent), members)
            ) as phases:
                async for phase in phases:
                    self.phases[name] = phase

        self.asked[name] = asyncio.create_task(place())

    def end(self, name):
        released.setdefault(name, threading.Event()).set()
        self.placement.release(name)

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def waiting(self, name, why):
        await self.until(lambda: why in self.phases.get(name, ""))
        assert name not in held


@pytest.fixture
def on_cluster(monkeypatch):
    monkeypatch.setattr(placement_module, "hold_session", hold)
    monkeypatch.setattr(placement_module, "_LOOK_AGAIN", 0.05)
    held.clear()
    released.clear()

    def run(scenario):
        async def main():
            async with Cluster() as cluster:
                await scenario(cluster)

        asyncio.run(main())

    return run


def test_each_of_two_sessions_gets_an_idle_worker_and_a_third_the_first_that_is_free(on_cluster):
    async def scenario(cluster):
        cluster.ask("a")
        cluster.ask("b")  # at once: the scheduler does not know yet what the first one takes
        await cluster.until(lambda: held.keys() == {"a", "b"})
        assert held["a"] != held["b"]
        cluster.ask("c")
        await cluster.waiting(
            "c", "waiting in the queue: 1 CPU is taken on every worker (held by sessions a, b; to end one: "
        )
        cluster.end("b")
        await cluster.until(lambda: "c" in held)
        assert held["c"] == held["b"]

    on_cluster(scenario)


def test_who_came_first_is_served_first_and_who_goes_leaves_the_queue(on_cluster):
    async def scenario(cluster):
        for name in "abcde":
            cluster.ask(name, 1)
            await cluster.until(lambda name=name: name in cluster.phases)
        assert held.keys() == {"a", "b"}
        cluster.end("c")  # cancelled
        await asyncio.wait_for(cluster.asked["c"], 5)
        cluster.end("a")
        await cluster.until(lambda: "d" in held)
        await cluster.waiting("e", "waiting in the queue")
        assert "c" not in held

    on_cluster(scenario)


def test_a_worker_that_leaves_takes_nobody_from_the_queue(on_cluster):
    async def scenario(cluster):
        for name in "abc":
            cluster.ask(name)
            await cluster.until(lambda name=name: name in cluster.phases)
        for worker in list(cluster.workers):
            await worker.close()
        await cluster.waiting("c", "waiting for a worker to join")
        cluster.end("a")
        cluster.end("b")
        await cluster.add_worker()
        await cluster.until(lambda: "c" in held)
        assert held["c"] == cluster.workers[-1].address

    on_cluster(scenario)


def test_a_session_whose_worker_left_before_it_began_gets_another(on_cluster):
    async def scenario(cluster):
        for worker in cluster.workers:
            worker.state.available_resources["CPU"] = 0  # the task stays in the worker's line
        cluster.ask("a")
        await cluster.until(lambda: cluster.phases.get("a") == "starting a kernel")
        for worker in list(cluster.workers):
            await worker.close()
        await cluster.add_worker()
        await cluster.until(lambda: "a" in held)
        assert held["a"] == cluster.workers[-1].address

    on_cluster(scenario)


def test_what_no_worker_can_hold_any_more_keeps_nobody_waiting(on_cluster):
    async def scenario(cluster):
        cluster.ask("large", 4)
        await cluster.waiting("large", "waiting for a worker that has 4 CPUs")
        cluster.ask("small")
        await cluster.until(lambda: "small" in held)

    on_cluster(scenario)


def test_amounts_are_for_people(on_cluster):
    async def scenario(cluster):
        for state in cluster.scheduler.workers.values():
            state.resources["MEMORY"] = 12 * 2**30
        refusal = cluster.placement.impossible({"CPU": 1, "MEMORY": 500 * 2**30})
        assert refusal.startswith(
            "No worker of this cluster has 500.0 GiB of memory: the largest has 12.0 GiB of memory."
        )
        assert "has 1.5 CPUs: the largest has 1 CPU." in cluster.placement.impossible({"CPU": 1.5})

    on_cluster(scenario)


class Steward:
    """Would add workers of four CPUs, of which none is there yet."""

    trouble = ""

    def potential(self):
        return [{"CPU": 1}, {"CPU": 1}, {"CPU": 4}]


def test_what_a_worker_could_hold_that_is_to_come_is_waited_for(on_cluster):
    async def scenario(cluster):
        cluster.scheduler.extensions["nbcloud-steward"] = Steward()
        cluster.ask("large", 4)
        await cluster.waiting("large", "waiting for a worker with 4 CPUs to join the cluster")
        assert cluster.placement.impossible({"CPU": 5}) == (
            "No worker of this cluster has 5 CPUs: the largest has 4 CPUs. "
            "Ask for less, or have larger workers in the cluster's profile."
        )
        assert cluster.placement.impossible({"CPU": 3}, 2).endswith("or have more in the cluster's profile.")

    on_cluster(scenario)


def test_amounts_are_things_and_not_numbers_of_devices():
    assert amounts_text({"GPU": 2, "CPU": 0.5, "MEMORY": 2**36, "tpu": 3}) == (
        "2 GPUs, 0.5 CPUs, 64.0 GiB of memory, tpu 3"
    )
    assert taken_text({"GPU": 2}) == "2 GPUs are taken on every worker"
    assert taken_text({"MEMORY": 2**30}) == "1.0 GiB of memory is taken on every worker"
    assert held_text([]) == ""
    assert held_text(list("abcd")) == " (held by sessions a, b, c, …; to end one: %cloud reset NAME)"


def test_a_silent_worker_is_taken_when_it_is_heard_of_again(on_cluster):
    async def scenario(cluster):
        silent = [worker.address for worker in cluster.workers]
        for worker in cluster.workers:
            worker.periodic_callbacks["heartbeat"].stop()
        cluster.ask("a", 1, silent)
        await cluster.waiting("a", "")
        cluster.workers[1].periodic_callbacks["heartbeat"].start()
        await cluster.until(lambda: "a" in held)
        assert held["a"] == silent[1]

    on_cluster(scenario)


def test_a_gang_is_placed_as_a_whole_over_the_workers_and_others_wait_behind_it(on_cluster):
    async def scenario(cluster):
        await cluster.add_worker()
        cluster.ask("first", members=("first-0", "first-1"))
        cluster.ask("second", members=("second-0", "second-1"))
        await cluster.until(lambda: held.keys() == {"first-0", "first-1"})
        assert held["first-0"] != held["first-1"]
        await cluster.waiting("second", "there is room for 1 of 2 workers with 1 CPU")
        cluster.ask("small")  # would fit, and would have the gang starve if it were let by
        await cluster.waiting("small", "another session asked first")
        for member in ("first-0", "first-1"):
            released.setdefault(member, threading.Event()).set()
        cluster.end("first")
        await cluster.until(lambda: {"second-0", "second-1", "small"} <= held.keys())

    on_cluster(scenario)


def test_a_gang_that_can_never_fit_is_refused_with_numbers(on_cluster):
    async def scenario(cluster):
        assert cluster.placement.impossible({"CPU": 1}, 2) == ""
        assert cluster.placement.impossible({}, 5) == ""
        refusal = cluster.placement.impossible({"CPU": 1}, 3)
        assert refusal.startswith("This cluster has room for 2 of 3 workers with 1 CPU.")
        assert cluster.placement.impossible({"GPU": 1}).startswith("No worker of this cluster has a GPU.")
        assert cluster.placement.default_resources() == {"CPU": 1}

    on_cluster(scenario)


def test_a_gang_whose_worker_leaves_before_its_kernels_are_there_is_given_up(on_cluster):
    async def scenario(cluster):
        for worker in cluster.workers:
            worker.state.available_resources["CPU"] = 0  # the tasks stay in the workers' lines
        cluster.ask("gang", members=("gang-0", "gang-1"))
        await cluster.until(lambda: cluster.phases.get("gang") == "starting a kernel")
        await cluster.workers.pop().close()
        with pytest.raises(RuntimeError, match="left meanwhile"):
            await asyncio.wait_for(cluster.asked.pop("gang"), 10)
        cluster.placement.release("gang")

    on_cluster(scenario)

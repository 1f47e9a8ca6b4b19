"""The kubelet of all nodes: pods are processes of this machine.

What differs from reality: pods share the machine's network and file system. Python processes of a pod, with all
their children, have its address, 127.100.x.y, and know the names of services, by a ``sitecustomize`` on PYTHONPATH
(see ``pod_network``); for other programs only ``0.0.0.0`` and names of services in arguments and variables are
changed, when they start. Mount paths: see ``volumes``. No limit of cpu or memory is enforced.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
from pathlib import Path

from tests.kubernetes.access import Access
from tests.kubernetes.containers import Container, Node
from tests.kubernetes.store import Object, Store, now
from tests.kubernetes.volumes import NotMounted, Volumes

FILES = frozenset({"secrets", "configmaps", "persistentvolumeclaims"})


class RunningPod:
    """A pod that a node has."""

    def __init__(
        self, store: Store, pod: Object, address: str, directory: Path, node: Node, access: Access
    ) -> None:
        self._store, self.directory, self._access = store, directory, access
        pod = store.change(
            "pods",
            pod,
            lambda each: each["status"].update(
                podIP=address, podIPs=[{"ip": address}], hostIP="127.0.0.1", startTime=now()
            ),
        )
        self.pod = pod
        self._tokens: list[str] = []
        directory.mkdir(parents=True)
        self._isolate(address, node)
        self.volumes = Volumes(store, pod, directory / "volumes", self._token)
        make = lambda spec: Container(store, pod, spec, directory, node, self.report)  # noqa: E731
        self.first = [make(each) for each in pod["spec"].get("initContainers") or ()]
        self.containers = [make(each) for each in pod["spec"]["containers"]]
        self.ended = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._grace = asyncio.Event()
        self._running = asyncio.create_task(self._run())

    def _isolate(self, address: str, node: Node) -> None:
        """Python processes of the pod load what gives them an address of their own and the names of services."""
        code = Path(__file__).with_name("pod_network.py").read_text()
        code += f"\n\nresolve_services({str(node.services)!r}, {self.pod['metadata']['namespace']!r})\nisolate({address!r})\n"
        (self.directory / "site").mkdir()
        (self.directory / "site" / "sitecustomize.py").write_text(code)

    def _token(self) -> str:
        if not self._tokens:
            account = self.pod["spec"]["serviceAccountName"]
            self._tokens.append(
                self._access.service_account_token(self.pod["metadata"]["namespace"], account)
            )
        return self._tokens[0]

    def container(self, name: str) -> Container:
        return next(each for each in [*self.first, *self.containers] if each.name == name)

    async def _run(self) -> None:
        self.report()
        await self._mount()
        policy = self.pod["spec"]["restartPolicy"]
        for each in self.first:
            if await each.run("OnFailure" if policy == "Always" else policy):
                self.report()
                return
        async with asyncio.TaskGroup() as group:
            for each in self.containers:
                group.create_task(each.run(policy))
        self.report()

    async def _mount(self) -> None:
        while True:
            version = self._store.version
            try:
                self.volumes.mount(self.directory.parent / "claims")
                break
            except NotMounted as error:
                self._store.record_event(self.pod, "FailedMount", str(error), "kubelet", "Warning")
                await self._store.wait_for(FILES, version)
        for each in [*self.first, *self.containers]:
            each.paths = self.volumes.paths(each.spec)

    def report(self) -> None:
        """Write the pod's status."""
        if self._ending:
            return
        first, main = [each.status() for each in self.first], [each.status() for each in self.containers]
        ended = [each["state"].get("terminated") for each in main]
        failed_first = any(each["state"].get("terminated", {}).get("exitCode") for each in first)
        never = self.pod["spec"]["restartPolicy"] == "Never"
        initialized = all(
            "terminated" in each["state"] and not each["state"]["terminated"]["exitCode"] for each in first
        )
        if failed_first and never:
            phase = "Failed"
        elif all(ended) and (
            never or (self.pod["spec"]["restartPolicy"] == "OnFailure" and self._running.done())
        ):
            phase = "Failed" if any(each["exitCode"] for each in ended) else "Succeeded"
        elif not initialized or any("waiting" in each["state"] and not each["lastState"] for each in main):
            phase = "Pending"
        else:
            phase = "Running"
        ready = phase == "Running" and all(each["ready"] for each in main)
        unready = (
            {}
            if ready
            else {
                "reason": "ContainersNotReady"
                if phase not in ("Succeeded", "Failed")
                else f"Pod{'Completed' if phase == 'Succeeded' else 'Failed'}",
                "message": f"containers with unready status: [{' '.join(each['name'] for each in main if not each['ready'])}]",
            }
        )
        wanted = {
            "Initialized": (initialized, {}),
            "ContainersReady": (ready, unready),
            "Ready": (ready, unready),
        }

        def write(pod: Object) -> None:
            status = pod["status"]
            status["phase"] = phase
            status["containerStatuses"] = main
            if first:
                status["initContainerStatuses"] = first
            for type_, (good, why) in wanted.items():
                set_condition(status, type_, good, **why)

        self.pod = self._store.change("pods", self.pod, write)

    def end(self, grace: float) -> None:
        """Begin to end the pod, or end it sooner than was said before."""
        if grace == 0:
            self._grace.set()
        if not self._ending:
            self._ending = asyncio.create_task(self._end(grace))

    async def _end(self, grace: float) -> None:
        for each in self.containers:
            if each.process and each.process.returncode is None:
                self._store.record_event(self.pod, "Killing", f"Stopping container {each.name}", "kubelet")
        self.ended.set()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        ending = [asyncio.create_task(each.end(grace)) for each in [*self.first, *self.containers]]
        at_once = asyncio.create_task(self._grace.wait())
        together = asyncio.gather(*ending)
        await asyncio.wait([together, at_once], return_when=asyncio.FIRST_COMPLETED)
        if not together.done():
            for each in [*self.first, *self.containers]:
                each.kill(signal.SIGKILL)
        await together
        at_once.cancel()
        for token in self._tokens:
            self._access.revoke(token)
        self.volumes.remove()
        self._store.delete("pods", self.pod, grace=0)

    async def close(self) -> None:
        self.end(0)
        if self._ending:
            await self._ending


class Kubelet:
    """Runs each pod that is bound to a node."""

    watches = frozenset({"pods"})

    def __init__(self, store: Store, access: Access, directory: Path, node: Node, block: range) -> None:
        self._store, self._access, self._directory, self._node = store, access, directory, node
        self._addresses = (f"127.100.{x}.{y}" for x, y in itertools.product(block, range(1, 255)))
        self._pods: dict[str, RunningPod] = {}

    def sync(self) -> None:
        present = {
            each["metadata"]["uid"]: each for each in self._store.list("pods") if each["spec"].get("nodeName")
        }
        for uid, pod in present.items():
            if uid not in self._pods:
                directory = (
                    self._directory / f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{uid[:8]}"
                )
                node = Node(self._node.images, {**self._node.variables, **devices(pod)}, self._node.services)
                self._pods[uid] = RunningPod(
                    self._store, pod, next(self._addresses), directory, node, self._access
                )
            if "deletionTimestamp" in pod["metadata"]:
                self._pods[uid].end(pod["metadata"].get("deletionGracePeriodSeconds", 30))
        for uid in self._pods.keys() - present.keys():
            self._pods[uid].end(0)

    def find(self, namespace: str, name: str) -> RunningPod:
        for each in self._pods.values():
            metadata = each.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name) and not each.ended.is_set():
                return each
        raise LookupError(f"no pod {namespace}/{name} is on a node")

    def log_file(self, pod: Object, container: str, previous: bool) -> Path | None:
        running = self._pods.get(pod["metadata"]["uid"])
        logs = running.container(container).logs if running else []
        return logs[-2] if previous and len(logs) > 1 else logs[-1] if logs and not previous else None

    def writes(self, pod: Object, container: str, file: Path) -> bool:
        """Whether something may still be written to a log."""
        found = self._pods[pod["metadata"]["uid"]].container(container)
        return found.logs[-1] == file and found.process is not None and found.process.returncode is None

    async def gone(self, pod: Object) -> None:
        if running := self._pods.get(pod["metadata"]["uid"]):
            await running.ended.wait()

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._pods.values()))
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._directory)


def devices(pod: Object) -> dict[str, str]:
    """The GPUs that the scheduler's node gave to the pod."""
    numbers = (pod["metadata"].get("annotations") or {}).get("double/gpus")
    return {"CUDA_VISIBLE_DEVICES": numbers, "NVIDIA_VISIBLE_DEVICES": numbers} if numbers else {}


def set_condition(status: Object, type_: str, good: bool, **why: str) -> None:
    """Set a condition of a status; the time of its last transition is that of its last change."""
    conditions = status.setdefault("conditions", [])
    value = "True" if good else "False"
    before = next((each for each in conditions if each["type"] == type_), None)
    since = before["lastTransitionTime"] if before and before["status"] == value else now()
    after = {"type": type_, "status": value, "lastTransitionTime": since, **why}
    if before is None:
        conditions.append(after)
    else:
        conditions[conditions.index(before)] = after

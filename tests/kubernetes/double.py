"""The whole cluster: its parts run in a thread of their own, and the test talks to it from any other."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import yaml

from tests.kubernetes import certificates, nodes, processes
from tests.kubernetes.access import ADMIN_RULES, Access, Rule, User
from tests.kubernetes.admission import Admission
from tests.kubernetes.api import ApiServer
from tests.kubernetes.containers import Node
from tests.kubernetes.deployments import Deployments, ReplicaSets
from tests.kubernetes.garbage import GarbageCollector, Namespaces, Quotas
from tests.kubernetes.images import DEFAULT_IMAGE
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.pod_streams import PodStreams
from tests.kubernetes.services import ServiceProxy
from tests.kubernetes.store import Object, Store

Value = TypeVar("Value")
CHART = resources.files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator"


class Controller(Protocol):
    """A part of the cluster that looks at all there is when something of its kinds has changed."""

    watches: frozenset[str]

    def sync(self) -> None: ...


def claim_addresses() -> tuple[range, socket.socket]:
    """The third numbers of the addresses of one double, so that those of other processes have others."""
    for first in range(0, 256, 16):
        claim = socket.socket()
        try:
            claim.bind((f"127.100.{first}.255", 8443))
        except OSError:
            claim.close()
        else:
            return range(first, first + 16), claim
    raise RuntimeError("too many doubles of Kubernetes on this machine")


class KubernetesDouble:
    """A cluster on loopback: a context manager.

    ``images`` are environments of Python by name; more may be added at any time.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kubernetes-double-"))
        self.images: dict[str, Path] = {DEFAULT_IMAGE: Path(sys.prefix)}
        self.failures: list[BaseException] = []
        """What went wrong in the double itself."""
        self._authority, self._tls = certificates.make(self.root)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubernetes-double", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.call(self._start())
        for name in ("node-a", "node-b"):
            self.add_node(name)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _start(self) -> None:
        self.store = Store()
        block, self._claim = claim_addresses()
        self.access, self.admission = Access(self.store), Admission(self.store, block)
        self._environment = Node(self.images, {}, self.root / "services")
        self.kubelet = Kubelet(self.store, self.access, self.root / "pods", self._environment, block)
        streams = PodStreams(self.store, self.kubelet)
        self.api = ApiServer(self.store, self.access, self.admission, streams, self._tls)
        await self.api.start()
        self._environment.variables.update(
            KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=str(self.api.port)
        )
        self._proxy = ServiceProxy(self.store, self.root / "services")
        self._controllers: list[Controller] = [
            GarbageCollector(self.store),
            Namespaces(self.store, self._authority),
            Quotas(self.store, self.admission),
            Deployments(self.store, self.admission),
            ReplicaSets(self.store, self.admission),
            nodes.Scheduler(self.store),
            self.kubelet,
            self._proxy,
        ]
        for name in ("default", "kube-system"):
            self._create("namespaces", {"metadata": {"name": name}})
        self._controlling = asyncio.create_task(self._control())

    async def _control(self) -> None:
        seen = 0
        while True:
            await self.store.wait_after(seen)
            changed, seen = self.store.changed_resources(seen), self.store.version
            for each in self._controllers:
                if "*" in each.watches or each.watches & changed:
                    try:
                        each.sync()
                    except Exception as error:
                        self.failures.append(error)
                        self._loop.call_exception_handler({"message": f"{each} failed", "exception": error})
            await asyncio.sleep(0)

    # From the thread of the test

    def call(self, what: Coroutine[Any, Any, Value]) -> Value:
        """Run a coroutine in the double's thread."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    def do(self, what: Callable[..., Value], *arguments: Any) -> Value:
        """Call a function in the double's thread."""
        future: concurrent.futures.Future[Value] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(what(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result(60)

    def create(self, resource: str, obj: Object) -> Object:
        """Create an object as an administrator would; ``resource`` is a full name, such as ``deployments.apps``."""
        return self.do(self._create, resource, obj)

    def _create(self, resource: str, obj: Object) -> Object:
        return self.store.create(resource, self.admission.create(self.store.resources[resource], obj))

    def objects(self, resource: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        return self.do(self.store.list, resource, namespace, labels)

    def pods(self, namespace: str, labels: str = "") -> list[Object]:
        return self.objects("pods", namespace, labels)

    def events(self, namespace: str, reason: str = "") -> list[Object]:
        return [each for each in self.objects("events", namespace) if reason in ("", each["reason"])]

    def add_node(
        self,
        name: str,
        cpu: str = "8",
        memory: str = "32Gi",
        resources: dict[str, int] | None = None,
        labels: dict[str, str] | None = None,
        taints: list[Object] | None = None,
    ) -> None:
        self.create("nodes", nodes.node(name, cpu, memory, resources or {}, labels or {}, taints or []))

    def remove_node(self, name: str) -> None:
        """Delete a node and, as the controller of nodes would after a while, all pods that it had."""

        def remove() -> None:
            for each in self.store.list("pods"):
                if each["spec"].get("nodeName") == name:
                    self.store.delete("pods", each, grace=0)
            self.store.delete("nodes", self.store.get("nodes", None, name))

        self.do(remove)

    def add_user(self, name: str, rules: list[Rule] | None = None, namespace: str = "default") -> Path:
        """A kubeconfig of a user who may do what ``rules`` say (all when None), besides what roles in the API say."""
        user = User(name, rules=ADMIN_RULES if rules is None else tuple(rules))
        cluster = {
            "server": self.api.url,
            "certificate-authority-data": base64.b64encode(self._authority.encode()).decode(),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": self.do(self.access.token, user)}}],
            "contexts": [
                {"name": "double", "context": {"cluster": "double", "user": name, "namespace": namespace}}
            ],
            "current-context": "double",
        }
        path = Path(
            tempfile.mkstemp(prefix=f"{name.replace(':', '-')}-", suffix=".kubeconfig", dir=self.root)[1]
        )
        path.write_text(yaml.safe_dump(content))
        return path

    def install_crds(self) -> None:
        """The custom resource definitions of dask-kubernetes."""
        for file in sorted((CHART / "crds").iterdir(), key=lambda each: each.name):
            definition = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            definition["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
            self.create("customresourcedefinitions.apiextensions.k8s.io", definition)

    def remove_crds(self) -> None:
        definitions = "customresourcedefinitions.apiextensions.k8s.io"
        for each in self.objects(definitions):
            self.do(self.store.delete, definitions, each)

    def remove_namespace(self, name: str, limit: float = 60.0) -> None:
        """Delete a namespace with all that it has, without grace; returns when its processes are gone."""

        def begin() -> None:
            for each in self.store.list("pods", name):
                self.store.delete("pods", each, grace=0)
            if found := self.store.find("namespaces", None, name):
                self.store.delete("namespaces", found)

        self.do(begin)
        deadline = time.monotonic() + limit
        while self.do(self.store.find, "namespaces", None, name) or self.processes(name):
            if time.monotonic() > deadline:
                left = [
                    f"{kind} {each['metadata']['name']}"
                    for kind, each in self.do(lambda: list(self.store.all(name)))
                ]
                raise TimeoutError(
                    f"namespace {name} was not gone after {limit:g} s: {left}, {self.processes(name)}"
                )
            time.sleep(0.02)

    def processes(self, namespace: str = "", pod: str = "") -> list[int]:
        """The processes of a pod, of a namespace's pods, or of all pods."""
        start = f"{namespace}_{pod}" + ("_" if pod else "") if namespace else ""
        with contextlib.suppress(FileNotFoundError):
            places = [each for each in (self.root / "pods").iterdir() if each.name.startswith(start)]
            return [pid for each in places for pid in processes.below(each)]
        return []

    # Faults

    def kill_pod(self, namespace: str, name: str, reason: str = "OOMKilled", container: str = "") -> None:
        """Kill a container (the first, unless named) as the kernel kills one that takes too much memory."""

        def kill() -> None:
            running = self.kubelet.find(namespace, name)
            found = running.container(container) if container else running.containers[0]
            found.kill(signal.SIGKILL, reason)

        self.do(kill)

    def stop_api_server(self) -> None:
        """Close the API server's port and drop all its connections; pods go on."""
        self.call(self.api.stop())

    def start_api_server(self) -> None:
        self.call(self.api.start())

    def restart_api_server(self) -> None:
        self.stop_api_server()
        self.start_api_server()

    def expire_watches(self) -> None:
        """Forget the log: a watch that continues from before is answered 410 Gone."""
        self.do(self.store.compact)

    # The end

    def close(self) -> None:
        """End all processes and the thread."""
        if self._thread.is_alive():
            self.call(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(20)
            self._loop.close()
        processes.kill_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    async def _stop(self) -> None:
        self._controlling.cancel()
        await self.api.stop()
        await self.kubelet.close()
        await self._proxy.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_default_executor()
        self._claim.close()

"""What a profile may say: the keys of each kind, what they are without it, and what they mean.

README lists them from here (``tests/unit/test_docs.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nbcloud.config.tables import SIZE, TIME


@dataclass(frozen=True)
class LocalProfile:
    """A cluster of processes on this machine."""

    kind: Literal["local"] = "local"
    workers: int | None = None
    """Worker processes; by default one for each CPU, from 2 to 4."""
    threads: int | None = None
    """Threads of each worker; by default its part of the machine's."""
    memory: int | None = field(default=None, metadata=SIZE)
    """Memory of each worker; by default its part of the machine's."""
    idle_timeout: float | None = field(default=None, metadata=TIME)
    """Time without a run after which it stops; 0 never. By default that of the settings."""
    resources: dict[str, float] | None = None
    """Dask resources of each worker, as in ``{GPU = 1}``."""
    price: float = 0.0
    """What an hour of a worker costs."""


@dataclass(frozen=True)
class ExistingProfile:
    """A Dask scheduler that somebody else runs."""

    address: str
    """``tcp://HOST:PORT`` or ``tls://HOST:PORT``."""
    kind: Literal["existing"] = "existing"
    tls_ca: str = ""
    """PEM file for ``tls://``, as are the next two; by default those of Dask's configuration."""
    tls_cert: str = ""
    """The client's certificate."""
    tls_key: str = ""
    """The client's key."""
    price: float = 0.0
    """What an hour of a worker costs."""


@dataclass(frozen=True)
class Toleration:
    """A taint that pods of a group put up with; as in Kubernetes."""

    key: str = ""
    """The taint's key; by default any."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether its value must be the one below."""
    value: str = ""
    """The taint's value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """The taint's effect; by default any."""


@dataclass(frozen=True)
class Volume:
    """A volume of a pod: exactly one source, and where it is mounted."""

    path: str
    """Where it is mounted, absolute."""
    claim: str = ""
    """A PersistentVolumeClaim."""
    secret: str = ""
    """A Secret, each key a file."""
    config_map: str = ""
    """A ConfigMap, each key a file."""
    host_path: str = ""
    """A folder of the node."""
    memory: int | None = field(default=None, metadata=SIZE)
    """A file system in memory of at most this size, such as a larger ``/dev/shm``."""
    read_only: bool = False
    """Whether nothing may be written there."""


@dataclass(frozen=True)
class SchedulerPod:
    """The scheduler's pod."""

    cpus: float = 1.0
    """Processors."""
    memory: int = field(default=2 * 2**30, metadata=SIZE)
    """Memory."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of nodes that may run it."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that it puts up with."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables."""
    service: Literal["ClusterIP", "LoadBalancer", "NodePort"] = "ClusterIP"
    """How the scheduler is exposed; with ``ClusterIP``, not at all: one goes by the API server."""


@dataclass(frozen=True)
class WorkerGroup:
    """Workers that are alike."""

    minimum: int = 1
    """Workers that there always are."""
    maximum: int | None = None
    """Workers that there are at most when much is asked for; by default ``minimum``."""
    cpus: float = 2.0
    """Processors of each worker."""
    memory: int = field(default=4 * 2**30, metadata=SIZE)
    """Memory of each worker."""
    gpus: int = 0
    """GPUs of each worker."""
    gpu_resource: str = "nvidia.com/gpu"
    """What Kubernetes calls them: ``amd.com/gpu``, ``nvidia.com/mig-1g.5gb``, …"""
    threads: int | None = None
    """Threads for Dask's own tasks; by default one for each CPU."""
    image: str = ""
    """Another image than the profile's."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of nodes that may run them."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that they put up with."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variables from Secrets: ``{HF_TOKEN = "hub/token"}`` is the key ``token`` of ``hub``."""
    volumes: tuple[Volume, ...] = ()
    """Volumes of each worker."""
    price: float = 0.0
    """What an hour of a worker costs."""
    idle_workers: float = field(default=60.0, metadata=TIME)
    """Time after which a worker above ``minimum`` goes that nothing runs on and no session is on."""
    idle_sessions: float = field(default=3600.0, metadata=TIME)
    """Time without a run after which a session is ended whose worker could go; 0 never."""

    @property
    def most(self) -> int:
        """Workers that there are at most."""
        return self.minimum if self.maximum is None else self.maximum

    @property
    def is_adaptive(self) -> bool:
        """Whether their number follows the work."""
        return self.most > self.minimum


@dataclass(frozen=True)
class KubernetesProfile:
    """A cluster of the dask-kubernetes operator."""

    kind: Literal["kubernetes"] = "kubernetes"
    kubeconfig: str = ""
    """The file that says how Kubernetes is reached; by default ``KUBECONFIG``, or ``~/.kube/config``."""
    context: str = ""
    """One of its contexts; by default the current one."""
    namespace: str = ""
    """Where the cluster is; by default the context's."""
    cluster_name: str = ""
    """Name of the ``DaskCluster``; by default made of the profile's and the user's."""
    image: str = ""
    """Image of all pods; by default Dask's own, of this Python and this Dask."""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """When nodes ask the registry for it; by default as Kubernetes does."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets with the registry's passwords."""
    service_account: str = ""
    """Account of the scheduler's pod, where you may make none; see ``nbcloud kubernetes rbac``."""
    scheduler: SchedulerPod = field(default_factory=SchedulerPod)
    """The scheduler's pod."""
    workers: WorkerGroup = field(default_factory=WorkerGroup)
    """The first group of workers, ``default``."""
    groups: dict[str, WorkerGroup] = field(default_factory=dict)
    """Further groups, by their names."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels of nodes that may run all pods."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that all pods put up with."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of all pods."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variables of all pods from Secrets, written ``SECRET/KEY``."""
    volumes: tuple[Volume, ...] = ()
    """Volumes of all pods."""
    idle_timeout: float = field(default=3600.0, metadata=TIME)
    """Time without a run after which the cluster goes away; 0 never."""
    start_timeout: float = field(default=600.0, metadata=TIME)
    """Time that its start may take, a node's included that has to be added for it."""
    shutdown_on_close: bool = False
    """Whether the cluster ends with the notebook or shell that started it."""

    def all_groups(self) -> dict[str, WorkerGroup]:
        """Every group of workers by its name."""
        return {"default": self.workers, **self.groups}


Profile = LocalProfile | ExistingProfile | KubernetesProfile

TYPES: dict[str, type[Any]] = {
    "local": LocalProfile,
    "existing": ExistingProfile,
    "kubernetes": KubernetesProfile,
}

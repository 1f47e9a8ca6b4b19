"""Profiles: named sets of cluster settings in ``nbcloud.toml``.

::

    [profiles.gpu]
    kind = "kubernetes"
    namespace = "ml"
    image = "registry.example.com/team/nbcloud:1"

    [profiles.gpu.workers]
    gpus = 1
    memory = "32GiB"
    maximum = 4

    [profiles.gpu.groups.cpu]
    cpus = 8

A profile of the project's file hides one of the same name in the user's. One value may be overridden by an
environment variable that spells its path: ``NBCLOUD_PROFILES__GPU__WORKERS__MAXIMUM=8``.
"""

from __future__ import annotations

import contextlib
import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbcloud.config import files
from nbcloud.config.tables import SIZE, TIME, nearest, read_table
from nbcloud.errors import ConfigError

KINDS = ("local", "existing", "kubernetes")


@dataclass(frozen=True)
class LocalProfile:
    """A cluster of processes on this machine."""

    kind: Literal["local"] = "local"
    workers: int | None = None
    """Worker processes; by default one for each CPU, from 2 to 4."""
    threads: int | None = None
    """Threads of each worker."""
    memory: int | None = field(default=None, metadata=SIZE)
    """Bytes of each worker."""
    idle_timeout: float | None = field(default=None, metadata=TIME)
    """Seconds without a run after which it stops; 0 never."""
    resources: dict[str, float] | None = None
    """Dask resources of each worker, as in ``{GPU = 1}``."""
    price: float = 0.0
    """What an hour of a worker costs."""


@dataclass(frozen=True)
class ExistingProfile:
    """A Dask scheduler that somebody else runs."""

    address: str
    kind: Literal["existing"] = "existing"
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    price: float = 0.0
    """What an hour of a worker costs."""


@dataclass(frozen=True)
class Toleration:
    """A taint that pods of a group put up with; as in Kubernetes."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


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
    """A file system in memory of at most so many bytes, such as a larger ``/dev/shm``."""
    read_only: bool = False


@dataclass(frozen=True)
class SchedulerPod:
    """The scheduler's pod."""

    cpus: float = 1.0
    memory: int = field(default=2 * 2**30, metadata=SIZE)
    """Bytes."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
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
    memory: int = field(default=4 * 2**30, metadata=SIZE)
    """Bytes of each worker."""
    gpus: int = 0
    """GPUs of each worker."""
    gpu_resource: str = "nvidia.com/gpu"
    """What Kubernetes calls them: ``amd.com/gpu``, ``nvidia.com/mig-1g.5gb``, …"""
    threads: int | None = None
    """Threads for Dask's own tasks; by default one for each CPU."""
    image: str = ""
    """Another image than the profile's."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variables from Secrets: ``{HF_TOKEN = "hub/token"}`` is the key ``token`` of ``hub``."""
    volumes: tuple[Volume, ...] = ()
    price: float = 0.0
    """What an hour of a worker costs."""
    idle_workers: float = field(default=60.0, metadata=TIME)
    """Seconds after which a worker above ``minimum`` goes that nothing runs on and no session is on."""
    idle_sessions: float = field(default=3600.0, metadata=TIME)
    """Seconds without a run after which a session is ended whose worker could go; 0 never."""

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
    """By default ``KUBECONFIG``, or ``~/.kube/config``."""
    context: str = ""
    """By default the kubeconfig's current one."""
    namespace: str = ""
    """By default the context's."""
    cluster_name: str = ""
    """Name of the ``DaskCluster``; by default made of the profile's and the user's."""
    image: str = ""
    """Image of all pods; by default Dask's own, of this Python and this Dask."""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    """Of the scheduler's pod, when its own may not be made; see ``nbcloud kubernetes install``."""
    scheduler: SchedulerPod = field(default_factory=SchedulerPod)
    workers: WorkerGroup = field(default_factory=WorkerGroup)
    """The first group of workers, ``default``."""
    groups: dict[str, WorkerGroup] = field(default_factory=dict)
    """Further groups, by their names."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Of all pods; so are the next four."""
    tolerations: tuple[Toleration, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    idle_timeout: float = field(default=3600.0, metadata=TIME)
    """Seconds without a run after which the cluster goes away; 0 never."""
    start_timeout: float = field(default=600.0, metadata=TIME)
    """Seconds that its start may take, a node's included that has to be added for it."""
    shutdown_on_close: bool = False
    """Whether the cluster ends with the notebook or shell that started it."""

    def all_groups(self) -> dict[str, WorkerGroup]:
        """Every group of workers by its name."""
        return {"default": self.workers, **self.groups}


Profile = LocalProfile | ExistingProfile | KubernetesProfile

_TYPES: dict[str, type[Any]] = {
    "local": LocalProfile,
    "existing": ExistingProfile,
    "kubernetes": KubernetesProfile,
}


def profiles() -> dict[str, tuple[Profile, str]]:
    """All profiles by their names, each with the file that it is from.

    Raises
    ------
    ConfigError
        Names the file, the place in it, and the nearest word that would be right.
    """
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for path, table in files.tables():
        for name, profile in _named(table, path).items():
            found.setdefault(name, (copy.deepcopy(profile), str(path)))
    _override(found)
    return {name: (_read(name, table, origin), origin) for name, (table, origin) in found.items()}


def readable() -> dict[str, Profile]:
    """The profiles by their names, without those that have a mistake."""
    with contextlib.suppress(ConfigError):
        return {name: made for name, (made, _) in profiles().items()}
    return {}


def profile(name: str) -> Profile | None:
    """The profile of that name, None without one.

    Raises
    ------
    ConfigError
        As `profiles`.
    """
    found = profiles().get(name)
    return found[0] if found else None


def _named(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    named = table.get("profiles", {})
    if not isinstance(named, dict) or not all(isinstance(each, dict) for each in named.values()):
        raise ConfigError(f"{path}: profiles must be tables.", "Write [profiles.NAME].")
    return named


def _read(name: str, table: dict[str, Any], origin: str) -> Profile:
    where = f"{origin}: profiles.{name}"
    kind = table.get("kind")
    if kind not in _TYPES:
        said = "lacks 'kind'" if kind is None else f"has a kind {kind!r} that there is not"
        raise ConfigError(f"{where} {said}.", nearest(str(kind), list(KINDS)))
    made: Profile = read_table(_TYPES[kind], table, where)
    if isinstance(made, KubernetesProfile):
        _check(made, where)
    return made


def _check(made: KubernetesProfile, where: str) -> None:
    """What no single value can show."""
    if "default" in made.groups:
        raise ConfigError(f"{where}.groups has 'default', which is what 'workers' describes.")
    for name, group in made.all_groups().items():
        place = f"{where}.workers" if name == "default" else f"{where}.groups.{name}"
        if group.minimum < 0 or group.most < max(group.minimum, 1 if name == "default" else 0):
            raise ConfigError(
                f"{place} can't have from {group.minimum} to {group.most} workers.",
                "Let maximum be at least minimum.",
            )
        if group.cpus <= 0 or group.gpus < 0 or group.memory <= 0:
            raise ConfigError(f"{place}: cpus and memory must be more than 0, gpus not less.")
        for volume in (*made.volumes, *group.volumes):
            sources = (volume.claim, volume.secret, volume.config_map, volume.host_path, volume.memory)
            if sum(bool(source) for source in sources) != 1:
                raise ConfigError(
                    f"{place}: the volume at {volume.path!r} must have exactly one source.",
                    "Give claim, secret, config_map, host_path or memory.",
                )
        for variable, text in {**made.secrets, **group.secrets}.items():
            if text.count("/") != 1:
                raise ConfigError(
                    f"{place}: the secret of {variable} can't be {text!r}.", "Write SECRET/KEY."
                )


def _override(found: dict[str, tuple[dict[str, Any], str]]) -> None:
    for variable, text in files.overrides().items():
        path = variable.split("__")[1:]
        name = next((each for each in found if _spelled(each) == path[0]), None)
        if name is None or len(path) < 2:
            raise ConfigError(
                f"The environment variable {variable} names no profile.",
                nearest(path[0].lower(), list(found)) if found else "There is no profile.",
            )
        *way, last = path[1:]
        place: dict[str, Any] = found[name][0]
        for word in way:
            key = next((each for each in place if _spelled(each) == word), word.lower())
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    f"The environment variable {variable} goes through {key!r}, which is a value."
                )
            place = inner
        key = next((each for each in place if _spelled(each) == last), last.lower())
        place[key] = _toml_value(text)


def _spelled(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def _toml_value(text: str) -> Any:
    """A value as it would stand in the file; what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text

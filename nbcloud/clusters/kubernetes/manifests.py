"""What a profile becomes in Kubernetes: plain data, made without asking anybody.

The templates are dask-kubernetes' own. What they lack is added, and what its releases got wrong is put right:

- Dask 2026.6 and later have no ``dask-worker`` and ``dask-scheduler``, so both are ``dask worker`` and
  ``dask scheduler``.
- The scheduler has resources of its own, not the workers' (and with them a GPU that it never uses).
- Nothing serves HTTP: a scheduler is ready when it answers by TLS. ``idleTimeout`` stays 0, because the
  operator's would count from the scheduler's start, and ask by HTTP.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nbcloud
from nbcloud.clusters.certificates import Texts
from nbcloud.clusters.kubernetes import naming
from nbcloud.clusters.kubernetes.roles import steward_rules
from nbcloud.clusters.kubernetes.source import ARCHIVE, archive
from nbcloud.config.profiles import KubernetesProfile, Toleration, Volume, WorkerGroup

Manifest = dict[str, Any]

_TLS = "/etc/nbcloud/tls"
_CODE = "/etc/nbcloud/code"
_ANY = "0.0.0.0"  # noqa: S104 - of the pod, whose port speaks mutual TLS only
ACCOUNT = "/etc/nbcloud/account"
TLS_KEYS = ("ca.pem", "cert.pem", "key.pem")
"""Keys of the Secret."""
STEWARD = "_NBCLOUD_STEWARD"
"""Environment variable of the scheduler with what its steward has to know; JSON."""


@dataclass(frozen=True)
class Plan:
    """All that makes up one cluster."""

    name: str
    namespace: str
    cluster: Manifest
    """The ``DaskCluster``, which owns all the rest."""
    code: Manifest
    """nbcloud itself, which pods mount."""
    secret: Manifest
    """The certificates. Made after the other parts: who finds it finds a cluster that is complete."""
    account: list[Manifest]
    """What the steward is allowed; nothing where it needs nothing, or has an account already."""
    groups: list[Manifest]
    """``DaskWorkerGroup`` of each further group."""

    def all(self) -> list[Manifest]:
        """Every manifest, in the order in which they are applied."""
        return [self.cluster, *self.parts, self.secret, *self.groups]

    @property
    def parts(self) -> list[Manifest]:
        """What is made right after the ``DaskCluster``, before the operator has made pods of that."""
        return [self.code, *self.account]

    def shown(self) -> list[Manifest]:
        """As `all`, without secrets and without the code."""
        return [_without_data(manifest) for manifest in self.all()]


def default_image() -> str:
    """Dask's own image, with this Python and this Dask."""
    import dask

    version = ".".join(map(str, sys.version_info[:2]))
    return f"ghcr.io/dask/dask:{dask.__version__.partition('+')[0]}-py{version}"


def plan(
    profile: str, settings: KubernetesProfile, namespace: str, certificates: Texts, *, account: bool = True
) -> Plan:
    """Everything that a cluster of this profile is made of.

    Parameters
    ----------
    account : bool
        Whether the steward may have an account of its own, without which workers don't follow the work, and
        nothing ends by itself.
    """
    name = naming.object_name(profile, settings)
    labels = {**naming.MANAGED_BY, naming.OWNER: naming.owner(), naming.PROFILE: naming.object_label(profile)}
    made = _Manifests(name, namespace, labels, settings, account=account)
    own = made.account() if made.needs_account and not settings.service_account else []
    groups = [made.group(key, group) for key, group in settings.groups.items()]
    return Plan(name, namespace, made.cluster(profile), made.code(), made.secret(certificates), own, groups)


class _Manifests:
    """The manifests of one cluster."""

    def __init__(
        self,
        name: str,
        namespace: str,
        labels: dict[str, str],
        settings: KubernetesProfile,
        *,
        account: bool,
    ) -> None:
        self._name = name
        self._namespace = namespace
        self._labels = labels
        self._settings = settings
        self._account = account or bool(settings.service_account)

    @property
    def needs_account(self) -> bool:
        """Whether the steward has anything to say to Kubernetes."""
        settings = self._settings
        adaptive = any(group.is_adaptive for group in settings.all_groups().values())
        return self._account and (adaptive or settings.idle_timeout > 0)

    def _metadata(self, suffix: str = "", **labels: str) -> dict[str, Any]:
        return {
            "name": f"{self._name}{suffix}",
            "namespace": self._namespace,
            "labels": {**self._labels, **labels},
        }

    def secret(self, certificates: Texts) -> Manifest:
        """The certificates."""
        files = dict(zip(TLS_KEYS, certificates, strict=True))
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self._metadata("-tls"),
            "type": "Opaque",
            "data": {key: base64.b64encode(text.encode()).decode() for key, text in files.items()},
        }

    def code(self) -> Manifest:
        """Nbcloud itself."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata("-code"),
            "binaryData": {ARCHIVE: base64.b64encode(archive()).decode()},
        }

    def account(self) -> list[Manifest]:
        """The steward's account, which may do what it needs and nothing else.

        The names of workers' Deployments are the operator's choice, so that they can't be listed here.
        """
        account = {"kind": "ServiceAccount", "name": f"{self._name}-steward", "namespace": self._namespace}
        group = "rbac.authorization.k8s.io"
        metadata = self._metadata("-steward")
        return [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
            {
                "apiVersion": f"{group}/v1",
                "kind": "Role",
                "metadata": metadata,
                "rules": steward_rules(self._name, list(self._settings.all_groups())),
            },
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": metadata,
                "subjects": [account],
                "roleRef": {"apiGroup": group, "kind": "Role", "name": metadata["name"]},
            },
        ]

    def cluster(self, profile: str) -> Manifest:
        """The ``DaskCluster``, with the scheduler and the first group."""
        from dask_kubernetes.operator import make_cluster_spec

        settings = self._settings
        manifest: Manifest = make_cluster_spec(self._name, image=self._image(), idle_timeout=0)
        groups = {
            key: {
                "price": group.price,
                "threads": _threads(group),
                "memory": group.memory,
                "minimum": group.minimum,
                "maximum": group.most,
            }
            for key, group in settings.all_groups().items()
        }
        facts = {"version": nbcloud.__version__, "profile": profile, "groups": groups}
        manifest["metadata"] = {
            **self._metadata(),
            "annotations": {naming.FACTS: json.dumps(facts)},
        }
        spec = manifest["spec"]
        self._finish_scheduler(spec["scheduler"])
        spec["worker"] = self._worker(settings.workers)
        return manifest

    def group(self, key: str, group: WorkerGroup) -> Manifest:
        """A ``DaskWorkerGroup``."""
        return {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskWorkerGroup",
            "metadata": self._metadata(f"-{key}", **{naming.CLUSTER: self._name}),
            "spec": {"cluster": self._name, "worker": self._worker(group)},
        }

    # Pods

    def _image(self, group: WorkerGroup | None = None) -> str:
        return (group.image if group else "") or self._settings.image or default_image()

    def _finish_scheduler(self, scheduler: dict[str, Any]) -> None:
        settings, pod = self._settings, self._settings.scheduler
        container = scheduler["spec"]["containers"][0]
        for probe in ("readinessProbe", "livenessProbe"):
            del container[probe]
        ports = [port for port in container["ports"] if port["name"] == "tcp-comm"]
        container |= {
            "args": [
                *("dask", "scheduler", "--host", _ANY, "--port", str(naming.PORT), "--protocol", "tls"),
                *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
                *("--preload", "nbcloud.sessions.journal.preload"),
                *("--preload", "nbcloud.clusters.kubernetes.steward"),
            ],
            "ports": ports,
            "resources": _resources(pod.cpus, pod.memory),
            "env": [
                *self._environment(pod.env, {}),
                {"name": STEWARD, "value": json.dumps(self._for_steward())},
            ],
        }
        spec = scheduler["spec"]
        self._finish_pod(spec, pod.node_selector, pod.tolerations, ())
        if self.needs_account:
            spec["serviceAccountName"] = settings.service_account or f"{self._name}-steward"
            spec["volumes"].append(_account_volume())
            container["volumeMounts"].append(
                {"name": "nbcloud-account", "mountPath": ACCOUNT, "readOnly": True}
            )
        service = scheduler["service"]
        service["type"] = pod.service
        service["ports"] = [port for port in service["ports"] if port["name"] == "tcp-comm"]

    def _for_steward(self) -> dict[str, Any]:
        groups = {
            key: {
                "object": f"{self._name}-{key}",
                "minimum": group.minimum,
                "maximum": group.most,
                "idle": group.idle_workers,
                "idle_sessions": group.idle_sessions,
                "resources": dask_resources(group),
                "price": group.price,
            }
            for key, group in self._settings.all_groups().items()
        }
        return {
            "name": self._name,
            "namespace": self._namespace,
            "idle_timeout": self._settings.idle_timeout,
            "groups": groups,
            "account": ACCOUNT if self.needs_account else "",
        }

    def _worker(self, group: WorkerGroup) -> dict[str, Any]:
        from dask_kubernetes.operator import make_worker_spec

        worker: dict[str, Any] = make_worker_spec(image=self._image(group), n_workers=group.minimum)
        host = naming.scheduler_host(self._name, self._namespace)
        resources = " ".join(f"{name}={amount:.12g}" for name, amount in dask_resources(group).items())
        container = worker["spec"]["containers"][0]
        container |= {
            "args": [
                *("dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--protocol", "tls", "--no-nanny"),
                *("--nthreads", str(_threads(group)), "--memory-limit", str(group.memory)),
                *("--resources", resources, "--death-timeout", "120"),
                *("--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
            ],
            "ports": [],
            "resources": _resources(group.cpus, group.memory, {group.gpu_resource: group.gpus}),
            "env": [
                *self._environment(group.env, group.secrets),
                {"name": "DASK_SCHEDULER_ADDRESS", "value": f"tls://{host}:{naming.PORT}"},
            ],
        }
        self._finish_pod(worker["spec"], group.node_selector, group.tolerations, group.volumes)
        return worker

    def _finish_pod(
        self,
        spec: dict[str, Any],
        selector: dict[str, str],
        tolerations: Iterable[Toleration],
        volumes: Iterable[Volume],
    ) -> None:
        """What all pods have."""
        settings = self._settings
        container = spec["containers"][0]
        if settings.image_pull_policy:
            container["imagePullPolicy"] = settings.image_pull_policy
        own: list[dict[str, Any]] = [
            {"name": "nbcloud-tls", "secret": {"secretName": f"{self._name}-tls", "defaultMode": 0o440}},
            {"name": "nbcloud-code", "configMap": {"name": f"{self._name}-code"}},
        ]
        mounts: list[dict[str, Any]] = [
            {"name": "nbcloud-tls", "mountPath": _TLS, "readOnly": True},
            {"name": "nbcloud-code", "mountPath": _CODE, "readOnly": True},
        ]
        for number, volume in enumerate((*settings.volumes, *volumes)):
            own.append({"name": f"volume-{number}", **_volume_source(volume)})
            mount: dict[str, Any] = {"name": f"volume-{number}", "mountPath": volume.path}
            mounts.append({**mount, "readOnly": True} if volume.read_only else mount)
        container["volumeMounts"] = mounts
        spec["volumes"] = own
        spec["automountServiceAccountToken"] = False
        if settings.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
        if selected := {**settings.node_selector, **selector}:
            spec["nodeSelector"] = selected
        if tolerated := [*settings.tolerations, *tolerations]:
            spec["tolerations"] = [_toleration(each) for each in tolerated]

    def _environment(self, env: dict[str, str], secrets: dict[str, str]) -> list[dict[str, Any]]:
        plain = {**self._settings.env, **env}
        path = f"{_CODE}/{ARCHIVE}"
        plain["PYTHONPATH"] = f"{path}:{plain['PYTHONPATH']}" if plain.get("PYTHONPATH") else path
        found: list[dict[str, Any]] = [
            {"name": name, "value": value} for name, value in {**plain, **_DASK}.items()
        ]
        for name, text in {**self._settings.secrets, **secrets}.items():
            secret, _, key = text.partition("/")
            found.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
        return found


_DASK = {
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": f"{_TLS}/ca.pem",
    **{
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part}": f"{_TLS}/{part.lower()}.pem"
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for part in ("CERT", "KEY")
    },
    # Dask's HTTP servers know no certificates. They listen on 127.0.0.1 and have nothing to say.
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
}


def dask_resources(group: WorkerGroup) -> dict[str, float]:
    """The Dask resources of one worker, which sessions hold."""
    resources = {"CPU": group.cpus, "MEMORY": float(group.memory)}
    return {**resources, "GPU": float(group.gpus)} if group.gpus else resources


def _threads(group: WorkerGroup) -> int:
    return group.threads or max(1, int(group.cpus))


def _resources(cpus: float, memory: int, more: dict[str, int] | None = None) -> dict[str, Any]:
    amounts = {"cpu": f"{cpus:g}", "memory": str(memory)}
    amounts |= {name: str(amount) for name, amount in (more or {}).items() if amount}
    # Of their own each: the operator's client once gave one dict to both pods.
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _toleration(toleration: Toleration) -> dict[str, str]:
    return {name: value for name, value in vars(toleration).items() if value}


def _volume_source(volume: Volume) -> dict[str, Any]:
    if volume.claim:
        return {"persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}
    if volume.secret:
        return {"secret": {"secretName": volume.secret}}
    if volume.config_map:
        return {"configMap": {"name": volume.config_map}}
    if volume.host_path:
        return {"hostPath": {"path": volume.host_path}}
    return {"emptyDir": {"medium": "Memory", "sizeLimit": str(volume.memory)}}


def _account_volume() -> dict[str, Any]:
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    return {"name": "nbcloud-account", "projected": {"sources": sources}}


def _without_data(manifest: Manifest) -> Manifest:
    hidden = {
        "Secret": {"data": dict.fromkeys(manifest.get("data", {}), "***")},
        "ConfigMap": {"binaryData": dict.fromkeys(manifest.get("binaryData", {}), "...")},
    }
    return {**manifest, **hidden.get(manifest["kind"], {})}

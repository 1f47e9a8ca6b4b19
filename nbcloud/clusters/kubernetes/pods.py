"""Pods of a cluster: what runs in them, with which environment, volumes and resources.

The templates are dask-kubernetes' own. What they lack is added, and what its releases got wrong is put right:

- Dask 2026.6 and later have no ``dask-worker`` and ``dask-scheduler``, so both are ``dask worker`` and
  ``dask scheduler``.
- The scheduler has resources of its own, not the workers' (and with them a GPU that it never uses).
- Nothing serves HTTP: a scheduler is ready when it answers by TLS.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from nbcloud.clusters.kubernetes import naming
from nbcloud.clusters.kubernetes.source import ARCHIVE
from nbcloud.config.profiles import KubernetesProfile, Toleration, Volume, WorkerGroup

ACCOUNT = "/etc/nbcloud/account"
STEWARD = "_NBCLOUD_STEWARD"
"""Environment variable of the scheduler with what its steward has to know; JSON."""
_TLS = "/etc/nbcloud/tls"
_CODE = "/etc/nbcloud/code"
_ANY = "0.0.0.0"  # noqa: S104 - of the pod, whose port speaks mutual TLS only


class Pods:
    """The pods of one cluster.

    Parameters
    ----------
    name, namespace : str
        Those of the cluster.
    settings : KubernetesProfile
        With an image.
    account : str
        The account of the scheduler's pod; empty where its steward has nothing to say to Kubernetes.
    """

    def __init__(self, name: str, namespace: str, settings: KubernetesProfile, account: str) -> None:
        self._name = name
        self._namespace = namespace
        self._settings = settings
        self._account = account

    def finish_scheduler(self, scheduler: dict[str, Any]) -> None:
        """Make the template's scheduler this cluster's."""
        pod = self._settings.scheduler
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
        if self._account:
            spec["serviceAccountName"] = self._account
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
            "account": ACCOUNT if self._account else "",
        }

    def worker(self, group: WorkerGroup) -> dict[str, Any]:
        """A worker's pod, and how many there are."""
        from dask_kubernetes.operator import make_worker_spec

        worker: dict[str, Any] = make_worker_spec(
            image=group.image or self._settings.image, n_workers=group.minimum
        )
        host = naming.scheduler_host(self._name, self._namespace)
        resources = " ".join(f"{name}={amount:.12g}" for name, amount in dask_resources(group).items())
        container = worker["spec"]["containers"][0]
        container |= {
            "args": [
                *("dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--protocol", "tls", "--no-nanny"),
                *("--nthreads", str(threads(group)), "--memory-limit", str(group.memory)),
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


def threads(group: WorkerGroup) -> int:
    """How many of Dask's own tasks a worker runs at once."""
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

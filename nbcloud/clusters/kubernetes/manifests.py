"""What a profile becomes in Kubernetes: plain data, made without asking anybody.

``idleTimeout`` stays 0, because the operator's would count from the scheduler's start, and ask by HTTP.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import nbcloud
from nbcloud.clusters.certificates import Texts
from nbcloud.clusters.kubernetes import naming
from nbcloud.clusters.kubernetes.changes import started_with
from nbcloud.clusters.kubernetes.pods import Pods, threads
from nbcloud.clusters.kubernetes.roles import steward_rules
from nbcloud.clusters.kubernetes.source import ARCHIVE, archive
from nbcloud.config.profiles import KubernetesProfile, WorkerGroup

Manifest = dict[str, Any]

TLS_KEYS = ("ca.pem", "cert.pem", "key.pem")
"""Keys of the Secret."""


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
    settings = replace(settings, image=settings.image or default_image())
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
        of_steward = (settings.service_account or f"{name}-steward") if self.needs_account else ""
        self._pods = Pods(name, namespace, settings, of_steward)

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
        manifest: Manifest = make_cluster_spec(self._name, image=settings.image, idle_timeout=0)
        groups = {
            key: {
                "price": group.price,
                "threads": threads(group),
                "memory": group.memory,
                "minimum": group.minimum,
                "maximum": group.most,
            }
            for key, group in settings.all_groups().items()
        }
        facts = {
            "version": nbcloud.__version__,
            "profile": profile,
            "groups": groups,
            "settings": started_with(settings),
        }
        manifest["metadata"] = {
            **self._metadata(),
            "annotations": {naming.FACTS: json.dumps(facts)},
        }
        spec = manifest["spec"]
        self._pods.finish_scheduler(spec["scheduler"])
        spec["worker"] = self._pods.worker(settings.workers)
        return manifest

    def group(self, key: str, group: WorkerGroup) -> Manifest:
        """A ``DaskWorkerGroup``."""
        return {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskWorkerGroup",
            "metadata": self._metadata(f"-{key}", **{naming.CLUSTER: self._name}),
            "spec": {"cluster": self._name, "worker": self._pods.worker(group)},
        }


def _without_data(manifest: Manifest) -> Manifest:
    hidden = {
        "Secret": {"data": dict.fromkeys(manifest.get("data", {}), "***")},
        "ConfigMap": {"binaryData": dict.fromkeys(manifest.get("binaryData", {}), "...")},
    }
    return {**manifest, **hidden.get(manifest["kind"], {})}

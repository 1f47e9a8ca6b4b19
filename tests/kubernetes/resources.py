"""The kinds that the API server knows: those that are built in, and those of custom resource definitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True)
class Resource:
    """A kind and where it lives."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    singular: str = ""
    schema: dict[str, Any] | None = field(default=None, compare=False)
    """The structural schema of a custom resource; built-in kinds have none here."""
    scale_path: str = ".spec.replicas"

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def discovery(self) -> list[dict[str, Any]]:
        names = {
            "name": self.plural,
            "singularName": self.singular or self.kind.lower(),
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": VERBS,
        }
        if self.short_names:
            names["shortNames"] = list(self.short_names)
        verbs = {"log": ["get"], "portforward": ["create", "get"]}
        return [names] + [
            {
                "name": f"{self.plural}/{subresource}",
                "singularName": "",
                "namespaced": self.namespaced,
                "kind": "Scale" if subresource == "scale" else self.kind,
                "verbs": verbs.get(subresource, ["get", "patch", "update"]),
            }
            for subresource in self.subresources
        ]


def custom_resources(definition: dict[str, Any]) -> list[Resource]:
    """The resources that a CustomResourceDefinition declares, one per served version."""
    spec = definition["spec"]
    names = spec["names"]
    return [
        Resource(
            group=spec["group"],
            version=version["name"],
            plural=names["plural"],
            kind=names["kind"],
            namespaced=spec["scope"] == "Namespaced",
            short_names=tuple(names.get("shortNames", ())),
            subresources=tuple(version.get("subresources") or ()),
            singular=names.get("singular", ""),
            schema=version.get("schema", {}).get("openAPIV3Schema", {}),
            scale_path=((version.get("subresources") or {}).get("scale") or {}).get(
                "specReplicasPath", ".spec.replicas"
            ),
        )
        for version in spec["versions"]
        if version["served"]
    ]


_STATUS, _SCALE = ("status",), ("scale", "status")
_RBAC = "rbac.authorization.k8s.io"

BUILT_IN = [
    Resource("", "v1", "pods", "Pod", True, ("po",), ("log", "portforward", "status")),
    Resource("", "v1", "services", "Service", True, ("svc",), _STATUS),
    Resource("", "v1", "endpoints", "Endpoints", True, ("ep",)),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "configmaps", "ConfigMap", True, ("cm",)),
    Resource("", "v1", "events", "Event", True, ("ev",)),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",)),
    Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, ("pvc",), _STATUS),
    Resource("", "v1", "resourcequotas", "ResourceQuota", True, ("quota",), _STATUS),
    Resource("", "v1", "limitranges", "LimitRange", True, ("limits",)),
    Resource("", "v1", "namespaces", "Namespace", False, ("ns",), _STATUS),
    Resource("", "v1", "nodes", "Node", False, ("no",), _STATUS),
    Resource("apps", "v1", "deployments", "Deployment", True, ("deploy",), _SCALE),
    Resource("apps", "v1", "replicasets", "ReplicaSet", True, ("rs",), _SCALE),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True, ("netpol",)),
    Resource("networking.k8s.io", "v1", "ingresses", "Ingress", True, ("ing",), _STATUS),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, ("pdb",), _STATUS),
    Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False, ("pc",)),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource(_RBAC, "v1", "roles", "Role"),
    Resource(_RBAC, "v1", "rolebindings", "RoleBinding"),
    Resource(_RBAC, "v1", "clusterroles", "ClusterRole", False),
    Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False),
    Resource(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        ("crd", "crds"),
        _STATUS,
    ),
]

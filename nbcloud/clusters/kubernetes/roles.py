"""Who may do what in Kubernetes: the steward of a cluster, and people who bring clusters up."""

from __future__ import annotations

from typing import Any

from nbcloud.clusters.kubernetes.api import KINDS, Manifest


def steward_rules(name: str, groups: list[str]) -> list[dict[str, Any]]:
    """What a steward needs to be allowed."""
    dask = {"apiGroups": ["kubernetes.dask.org"]}
    return [
        {**dask, "resources": ["daskclusters"], "resourceNames": [name], "verbs": ["get", "delete"]},
        {
            **dask,
            "resources": ["daskworkergroups"],
            "resourceNames": [f"{name}-{group}" for group in groups],
            "verbs": ["get", "patch"],
        },
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]


def user_roles(namespace: str, needed: list[tuple[str, str, str]]) -> list[Manifest]:
    """Roles for an administrator to apply and bind.

    ``nbcloud-user`` is for people who bring clusters up; ``nbcloud-steward``, an account with its role, is
    for the profiles' ``service_account`` where they may not make roles themselves.

    Parameters
    ----------
    namespace : str
    needed : list
        Verb, kind and subresource of all that people need.
    """
    rules: dict[tuple[str, str], list[str]] = {}
    for verb, kind, subresource in needed:
        version, plural = KINDS[kind]
        resource = f"{plural}/{subresource}" if subresource else plural
        rules.setdefault((version.rpartition("/")[0], resource), []).append(verb)
    group = "rbac.authorization.k8s.io"
    steward = {"name": "nbcloud-steward", "namespace": namespace}
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": {"name": "nbcloud-user", "namespace": namespace},
            "rules": [
                {"apiGroups": [api], "resources": [resource], "verbs": verbs}
                for (api, resource), verbs in rules.items()
            ],
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": steward},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": steward,
            "rules": [
                {key: value for key, value in rule.items() if key != "resourceNames"}
                for rule in steward_rules("", [])
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": steward,
            "subjects": [{"kind": "ServiceAccount", **steward}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "nbcloud-steward"},
        },
    ]

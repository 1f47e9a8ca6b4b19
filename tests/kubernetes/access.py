"""Who may do what: tokens, and role-based access control as the API holds it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.kubernetes import errors
from tests.kubernetes.resources import Resource
from tests.kubernetes.store import Store

Rule = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"
_READ, _WRITE = (
    ["get", "list", "watch"],
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
)
_EVERYTHING = ["*"]
_CONTENT = [
    "pods",
    "pods/log",
    "pods/portforward",
    "services",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
]
_WORKLOADS = ["deployments", "deployments/scale", "replicasets"]
CLUSTER_ROLES: dict[str, list[Rule]] = {
    "cluster-admin": [{"apiGroups": ["*"], "resources": _EVERYTHING, "verbs": _EVERYTHING}],
    "edit": [
        {"apiGroups": [""], "resources": [*_CONTENT, "serviceaccounts"], "verbs": _WRITE},
        {"apiGroups": [""], "resources": ["events", "resourcequotas", "namespaces"], "verbs": _READ},
        {"apiGroups": ["apps"], "resources": _WORKLOADS, "verbs": _WRITE},
    ],
    "view": [
        {"apiGroups": [""], "resources": [each for each in _CONTENT if each != "secrets"], "verbs": _READ},
        {"apiGroups": [""], "resources": ["events", "resourcequotas", "namespaces"], "verbs": _READ},
        {"apiGroups": ["apps"], "resources": _WORKLOADS, "verbs": _READ},
    ],
}


@dataclass(frozen=True)
class User:
    """One who talks to the API server."""

    name: str
    groups: tuple[str, ...] = ("system:authenticated",)
    rules: tuple[Rule, ...] = field(default=(), compare=False)
    """What this user may do besides what roles say; a rule may have ``namespaces``."""


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
ADMIN_RULES = tuple(CLUSTER_ROLES["cluster-admin"])


def rule_allows(rule: Rule, verb: str, group: str, resource: str, name: str = "") -> bool:
    def holds(key: str, value: str) -> bool:
        return "*" in rule.get(key, ()) or value in rule.get(key, ())

    names = rule.get("resourceNames")
    subresource = resource.partition("/")[2]
    known = holds("resources", resource) or (subresource and f"*/{subresource}" in rule.get("resources", ()))
    return holds("verbs", verb) and holds("apiGroups", group) and bool(known) and (not names or name in names)


class Access:
    """Tokens, and the rules of who holds them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tokens: dict[str, User] = {}
        for name, rules in CLUSTER_ROLES.items():
            store.create(f"clusterroles.{_RBAC}", {"metadata": {"name": name}, "rules": rules})

    def token(self, user: User) -> str:
        token = secrets.token_urlsafe(24)
        self._tokens[token] = user
        return token

    def revoke(self, token: str) -> None:
        self._tokens.pop(token, None)

    def service_account_token(self, namespace: str, name: str) -> str:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return self.token(User(f"system:serviceaccount:{namespace}:{name}", groups))

    def authenticate(self, authorization: str) -> User:
        if not authorization:
            return ANONYMOUS
        user = self._tokens.get(authorization.removeprefix("Bearer ").strip())
        if user is None:
            raise errors.StatusError(401, "Unauthorized", "Unauthorized")
        return user

    def rules(self, user: User, namespace: str | None) -> Iterator[Rule]:
        """The rules that hold for a user in a namespace, or, without one, in the whole cluster."""
        for rule in user.rules:
            if "*" in rule.get("namespaces", ["*"]) or namespace in rule.get("namespaces", ()):
                yield rule
        bindings = self._store.list(f"clusterrolebindings.{_RBAC}")
        if namespace:
            bindings += self._store.list(f"rolebindings.{_RBAC}", namespace)
        for binding in bindings:
            if any(self._is(user, subject, binding) for subject in binding.get("subjects") or ()):
                reference = binding["roleRef"]
                where = (f"clusterroles.{_RBAC}", None)
                if reference["kind"] == "Role":
                    where = (f"roles.{_RBAC}", binding["metadata"]["namespace"])
                role = self._store.find(*where, reference["name"])
                yield from (role or {}).get("rules") or ()

    @staticmethod
    def _is(user: User, subject: dict[str, Any], binding: dict[str, Any]) -> bool:
        if subject["kind"] == "ServiceAccount":
            namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
            return user.name == f"system:serviceaccount:{namespace}:{subject['name']}"
        return subject["name"] in (user.groups if subject["kind"] == "Group" else (user.name,))

    def allows(
        self, user: User, verb: str, group: str, resource: str, namespace: str | None, name: str = ""
    ) -> bool:
        return any(rule_allows(rule, verb, group, resource, name) for rule in self.rules(user, namespace))

    def check(
        self, user: User, verb: str, resource: Resource, part: str, namespace: str | None, name: str
    ) -> None:
        asked = f"{resource.plural}/{part}" if part else resource.plural
        if self.allows(user, verb, resource.group, asked, namespace, name):
            return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        why = f'User "{user.name}" cannot {verb} resource "{asked}" in API group "{resource.group}" {where}'
        raise errors.forbidden(resource, name, why)

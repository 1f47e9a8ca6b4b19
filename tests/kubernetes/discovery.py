"""What the API server says about itself and about its user: kinds, versions, and reviews of what is allowed."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.access import Access, User
from tests.kubernetes.errors import StatusError
from tests.kubernetes.store import Store

REVIEWS = {
    "selfsubjectaccessreviews": ("authorization.k8s.io", "SelfSubjectAccessReview"),
    "selfsubjectrulesreviews": ("authorization.k8s.io", "SelfSubjectRulesReview"),
    "selfsubjectreviews": ("authentication.k8s.io", "SelfSubjectReview"),
    "tokenreviews": ("authentication.k8s.io", "TokenReview"),
}
VERSION = {
    "major": "1",
    "minor": "33",
    "gitVersion": "v1.33.4",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z",
    "goVersion": "go1.24.5",
    "compiler": "gc",
    "platform": "linux/amd64",
}


def answer(store: Store, path: str) -> dict[str, Any] | None:
    """What a path of discovery answers; None for any other path."""
    groups: dict[str, set[str]] = {}
    for each in store.resources.values():
        groups.setdefault(each.group, set()).add(each.version)
    for group, _ in REVIEWS.values():
        groups.setdefault(group, set()).add("v1")
    del groups[""]
    match path.strip("/").split("/"):
        case ["version"]:
            return VERSION
        case ["healthz"] | ["readyz"] | ["livez"]:
            return {"status": "ok"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["api", "v1"]:
            return _resources(store, "", "v1")
        case ["apis"]:
            found = [_group(name, versions) for name, versions in sorted(groups.items())]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}
        case ["apis", group] if group in groups:
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, groups[group])}
        case ["apis", group, version] if version in groups.get(group, ()):
            return _resources(store, group, version)
    return None


def _group(name: str, versions: set[str]) -> dict[str, Any]:
    known = [{"groupVersion": f"{name}/{version}", "version": version} for version in sorted(versions)]
    return {"name": name, "versions": known, "preferredVersion": known[0]}


def _resources(store: Store, group: str, version: str) -> dict[str, Any]:
    resources = [
        entry
        for each in store.resources.values()
        if (each.group, each.version) == (group, version)
        for entry in each.discovery()
    ]
    resources += [
        {"name": plural, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["create"]}
        for plural, (where, kind) in REVIEWS.items()
        if where == group
    ]
    api_version = f"{group}/{version}" if group else version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version,
        "resources": resources,
    }


def review(access: Access, user: User, plural: str, asked: dict[str, Any]) -> dict[str, Any]:
    group, kind = REVIEWS[plural]
    spec = asked.get("spec") or {}
    status: dict[str, Any] = {}
    if kind == "SelfSubjectAccessReview":
        about = spec.get("resourceAttributes") or {}
        resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
        names = (
            about.get("verb", ""),
            about.get("group", ""),
            resource,
            about.get("namespace"),
            about.get("name", ""),
        )
        status = {"allowed": access.allows(user, *names)}
    elif kind == "SelfSubjectRulesReview":
        kept = ("verbs", "apiGroups", "resources", "resourceNames")
        rules = [
            {key: rule[key] for key in kept if key in rule}
            for rule in access.rules(user, spec.get("namespace"))
        ]
        status = {"resourceRules": rules, "nonResourceRules": [], "incomplete": False}
    else:
        about_user = {"username": user.name, "groups": list(user.groups)}
        status = {"userInfo": about_user}
        if kind == "TokenReview":
            status = _token_review(access, spec.get("token", ""))
    return {"kind": kind, "apiVersion": f"{group}/v1", "metadata": {}, "spec": spec, "status": status}


def _token_review(access: Access, token: str) -> dict[str, Any]:
    try:
        known = access.authenticate(f"Bearer {token}")
    except StatusError:
        return {"authenticated": False, "error": "[invalid bearer token]"}
    return {"authenticated": True, "user": {"username": known.name, "groups": list(known.groups)}}

"""Paths of the API, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from tests.kubernetes.resources import Resource
from tests.kubernetes.store import Store


@dataclass(frozen=True)
class Target:
    """What a path of the API means."""

    resource: Resource
    namespace: str | None
    name: str
    part: str


def parse(store: Store, parts: list[str]) -> Target | None:
    """What the steps of a path mean; None when there is no such thing."""
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = store.resources.get(f"{rest[0]}.{group}" if group else rest[0])
    name, part = (*rest[1:], "", "")[:2]
    if resource is None or resource.version != version or (part and part not in resource.subresources):
        return None
    return Target(resource, namespace, name, part)

"""What a test looks at in the double."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.conftest import TestNamespace


def only_pod(kubernetes: TestNamespace, labels: str) -> dict[str, Any]:
    pods = kubernetes.double.pods(kubernetes.namespace, labels)
    return pods[0] if len(pods) == 1 else {}


def waiting(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or [{"state": {}}]
    return statuses[0]["state"].get("waiting") or {}


def condition(obj: dict[str, Any], type_: str) -> dict[str, Any]:
    found = [each for each in obj.get("status", {}).get("conditions", ()) if each["type"] == type_]
    return found[0] if found else {}

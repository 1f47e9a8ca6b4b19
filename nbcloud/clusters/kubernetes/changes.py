"""What a profile says now that the cluster which is up was not started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nbcloud.config.profiles import KubernetesProfile
from nbcloud.wording import size_text

_ELSEWHERE = {
    "kind",
    "kubeconfig",
    "context",
    "namespace",
    "cluster_name",
    "start_timeout",
    "shutdown_on_close",
}
"""Keys that say which cluster is meant, or how to wait for it."""


def started_with(settings: KubernetesProfile) -> dict[str, Any]:
    """The settings that a cluster keeps, flat: ``{"workers.memory": 4294967296}``.

    Of environment variables only the names: a value may be a secret, and whoever may look at the cluster
    reads this.
    """
    return dict(_flat({key: value for key, value in asdict(settings).items() if key not in _ELSEWHERE}))


def changed(before: Mapping[str, Any], settings: KubernetesProfile) -> list[str]:
    """What differs, in words; nothing for a cluster of an nbcloud that did not keep it."""
    if not before:
        return []
    now = started_with(settings)
    # A key that only a later nbcloud knows says nothing of a change; a group that is new does.
    keys = dict.fromkeys([*before, *(key for key in now if key.startswith("groups."))])
    return [
        f"{key} is {_text(key, before.get(key))} there, and {_text(key, now.get(key))} in the profile"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if key == "env":
            found.append((name, sorted(value)))
        elif (isinstance(value, dict) and key in {"scheduler", "workers", "groups"}) or prefix == "groups.":
            found += _flat(value, f"{name}.")
        else:
            found.append((name, [*value] if isinstance(value, tuple) else value))
    return found


def _text(key: str, value: Any) -> str:
    if value in (None, "", [], {}):
        return "not set"
    return size_text(value) if key.endswith(".memory") else repr(value)

"""What there is by name, for Tab in notebooks and shells; nothing is started for it, and it never fails."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from nbcloud.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from nbcloud.models.registry import Registry
    from nbcloud.models.registry.state import State

_REGISTRY_WAIT = 1.0
"""Seconds that Tab waits for a registry, which may be far away."""


def clusters() -> list[str]:
    """Clusters that are up, and profiles."""
    from nbcloud.clusters import registry
    from nbcloud.config.profiles import readable

    found: list[str] = []
    with contextlib.suppress(ConfigError):
        found += [info.name for info in registry.entries()]
        found += [name for name in readable() if name not in found]
    return found


def groups(cluster: str | None = None) -> list[str]:
    """The groups of a cluster, or of all that are up or could be."""
    from nbcloud.clusters import registry
    from nbcloud.config.profiles import KubernetesProfile, readable

    found: dict[str, set[str]] = {}
    with contextlib.suppress(ConfigError):
        for name, made in readable().items():
            if isinstance(made, KubernetesProfile):
                found[name] = set(made.all_groups())
        for info in registry.entries():
            if "groups" in info.options:
                found[info.name] = set(info.options["groups"])
    return sorted({group for name, groups in found.items() if cluster in {None, name} for group in groups})


def runs() -> tuple[list[str], list[str]]:
    """The ids of the newest runs on record, and the names of these that are one word."""
    from nbcloud.dispatch.recorder import open_store

    with open_store() as store:
        recent = store.search(limit=30)
    named = dict.fromkeys(run.name for run in recent if run.name and not set(run.name) & set(" \t\"'\\"))
    return [run.id for run in recent], list(named)


def models(root: str | None = None) -> list[State]:
    """The models of a registry, as far as it answers soon."""
    found: list[State] = []

    def ask() -> None:
        from nbcloud.models.registry import Registry

        with contextlib.suppress(Exception):
            registry = Registry(root)
            for name in registry.names():
                found.extend(_state(registry, name))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_REGISTRY_WAIT)
    return list(found)


def _state(registry: Registry, name: str) -> list[State]:
    try:
        return [registry.state(name)]
    except ModelError:
        return []


def versions(found: list[State]) -> list[str]:
    """The ways to name models, then their versions, the newest first, and variants."""
    words = [state.name for state in found]
    for state in found:
        words += [f"{state.name}@{alias}" for alias in state.current]
        for number, entry in sorted(state.alive.items(), reverse=True):
            words += [f"{state.name}/{number}", *(f"{state.name}/{number}#{each}" for each in entry.variants)]
    return words


def aliases(found: list[State], reference: str) -> list[str]:
    """The aliases of the model that a reference is about."""
    name = reference.partition("/")[0].partition("@")[0]
    return sorted({alias for state in found if state.name == name for alias in state.current})

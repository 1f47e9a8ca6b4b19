"""What is around a run, for its record: the packages of its worker, the settings of its cluster."""

from __future__ import annotations

import contextlib
import json
import time

from nbcloud.clusters import environment, registry
from nbcloud.errors import NbcloudError

_FRESH_SECONDS = 300.0
"""A session may install packages meanwhile."""
_SETTINGS = ("name", "kind", "version", "workers", "threads", "memory", "idle_timeout")
_OPTIONS = ("server", "namespace", "groups", "settings")
"""Of clusters on Kubernetes. Values of environment variables are not among them."""
_known: dict[tuple[str, str], tuple[float, str]] = {}


def packages_of(cluster_id: str, worker: str) -> str:
    """Python and packages of a worker, a line each; empty when it can't be asked. Takes its time."""
    known = _known.get((cluster_id, worker))
    if known is not None and time.monotonic() - known[0] < _FRESH_SECONDS:
        return known[1]
    text = ""
    info = registry.by_id(cluster_id)
    if info is not None:
        with contextlib.suppress(NbcloudError):
            text = listed(environment.of_worker(info, worker))
    _known[cluster_id, worker] = (time.monotonic(), text)
    return text


def settings_of(cluster_id: str) -> str:
    """As what a cluster was started, as JSON; empty when it is gone."""
    info = registry.by_id(cluster_id)
    if info is None:
        return ""
    known = {name: getattr(info, name) for name in _SETTINGS}
    known |= {name: info.options[name] for name in _OPTIONS if name in info.options}
    return json.dumps(known, indent=1, sort_keys=True)


def listed(facts: environment.Facts) -> str:
    """Facts as pip reads them, and as they are kept."""
    lines = [f"{name}=={version}" for name, version in sorted(facts.packages.items())]
    return "\n".join([f"# Python {facts.python}", *lines, ""])

"""Small clusters of this machine, of which nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nbcloud.clusters import local, process, registry
from nbcloud.clusters.base import ClusterInfo


@pytest.fixture
def up() -> Iterator[Callable[..., ClusterInfo]]:
    """Bring a small cluster up; at the end all are down, and no process is left."""
    ids: list[str] = []

    def start(name: str = "local", **options: Any) -> ClusterInfo:
        info = local.up(name, **{"workers": 1, "threads": 1, "idle_timeout": 300, **options})
        ids.append(info.id)
        return info

    yield start
    for info in registry.entries():
        ids.append(info.id)
        local.down(info)
    assert (
        process.wait_gone([each for cluster_id in ids for each in process.members(None, cluster_id)], 5) == []
    )

"""Notebooks with a cluster: one that may be shared, and one that a test may destroy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nbcloud.clusters import local, process
from nbcloud.clusters.base import ClusterInfo
from tests.integration.notebooks import RunningNotebook, running_notebook


@pytest.fixture
def notebook(local_cluster: ClusterInfo) -> Iterator[RunningNotebook]:
    """A notebook whose cluster is the shared one."""
    with running_notebook() as running:
        yield running


@pytest.fixture
def own_cluster(nbcloud_dirs: Path) -> Iterator[ClusterInfo]:
    """A cluster named ``local`` for one test, which may kill any part of it."""
    info = local.up(workers=2, idle_timeout=600)
    yield info
    from nbcloud.clusters import registry

    for each in registry.entries():
        local.down(each)
        assert process.members(None, each.id) == []
    assert process.members(None, info.id) == []


@pytest.fixture
def own_notebook(own_cluster: ClusterInfo) -> Iterator[RunningNotebook]:
    """A notebook on a cluster of its own."""
    with running_notebook() as running:
        yield running

"""Profiles for tests: small ones of the test's namespace, written as a project's file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbcloud.clusters import connect, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.config.profiles import KubernetesProfile, profile
from nbcloud.errors import NbcloudError
from tests.integration.notebooks import RunningNotebook, running_notebook
from tests.kubernetes.conftest import TestNamespace

Up = Callable[..., ClusterInfo]

SMALL = """
[profiles.gpu]
kind = "kubernetes"
image = "{image}"
start_timeout = "60s"
{top}
[profiles.gpu.scheduler]
cpus = 0.1
memory = "512MiB"
[profiles.gpu.workers]
cpus = 1
memory = "1GiB"
{workers}
{rest}
"""


def write(
    folder: Path, kubernetes: TestNamespace, top: str = "", workers: str = "", rest: str = "", **given: Any
) -> None:
    """Write nbcloud.toml."""
    text = SMALL.format(image=given.get("image", kubernetes.image), top=top, workers=workers, rest=rest)
    (folder / "nbcloud.toml").write_text(text)


@pytest.fixture
def project(kubernetes: TestNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder with a profile ``gpu`` of one small worker, in which the test works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write(tmp_path, kubernetes)
    yield tmp_path
    for info in registry.entries():
        connect.down(info)


@pytest.fixture
def notebook(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNotebook]:
    """A notebook that runs its cells on the profile's cluster."""
    monkeypatch.setenv("NBCLOUD_CLUSTER", "gpu")
    with running_notebook(folder=project) as running:
        yield running


def known(name: str = "gpu") -> KubernetesProfile:
    """The profile as it is read."""
    found = profile(name)
    assert isinstance(found, KubernetesProfile)
    return found


def failure(call: Callable[[], object]) -> NbcloudError:
    """The error that a call ends with."""
    with pytest.raises(NbcloudError) as caught:
        call()
    return caught.value

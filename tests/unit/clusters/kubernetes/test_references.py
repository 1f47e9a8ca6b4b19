"""Whether an empty node could take a worker."""

from __future__ import annotations

import pytest

from nbcloud.clusters.kubernetes.references import fits


def node(memory: str = "64Gi", cpu: str = "8", **more: str) -> dict[str, object]:
    allocatable = {"cpu": cpu, "memory": memory, **more}
    return {"metadata": {"name": "n"}, "spec": {}, "status": {"allocatable": allocatable}}


def pod(**requests: str) -> dict[str, object]:
    return {"containers": [{"resources": {"requests": requests}}]}


@pytest.mark.parametrize(
    ("memory", "cpu", "state"),
    [
        ("4Gi", "2", "ok"),
        ("4194304Ki", "2000m", "ok"),
        ("4294967296", "2", "ok"),
        ("4294967295", "2", "warning"),
        ("4G", "2", "warning"),
        ("1Ti", "1999m", "warning"),
    ],
)
def test_amounts_are_compared_whatever_their_units(memory: str, cpu: str, state: str) -> None:
    assert fits("default", pod(cpu="2", memory="4294967296"), [node(memory, cpu)]).state == state


def test_what_lacks_on_the_best_node_is_named() -> None:
    found = fits("gpus", pod(cpu="2", gpu="1"), [node(cpu="1"), node()])
    assert found.text == "no node has 1 gpu for a worker of the group 'gpus'"
    assert fits("gpus", pod(cpu="2", gpu="1"), [node(), node(gpu="1")]).state == "ok"


def test_no_node_at_all() -> None:
    assert "none of 0 nodes" in fits("default", pod(cpu="2"), []).text

"""What clusters cost is known when they are gone."""

from __future__ import annotations

from pathlib import Path

from nbcloud.clusters import costs
from nbcloud.clusters.base import ClusterInfo


def info(name: str, cluster_id: str) -> ClusterInfo:
    return ClusterInfo(name, cluster_id, "kubernetes", "tls://h:8786")


def test_the_latest_word_on_each_cluster_counts() -> None:
    assert costs.past() == []
    costs.keep(info("gpu", "a"), 1.0, 2.5)
    costs.keep(info("cpu", "b"), 4.0, 1.0)
    costs.keep(info("gpu", "a"), 2.0, 5.0)  # its end had failed
    costs.keep(info("gpu", "c"), 1.0, 2.5)
    assert [(each.name, each.id, each.total) for each in costs.past("gpu")] == [
        ("gpu", "c", 2.5),
        ("gpu", "a", 5.0),
    ]
    assert {each.name for each in costs.past()} == {"gpu", "cpu"}


def test_what_can_not_be_read_costs_nothing(tmp_path: Path) -> None:
    costs.keep(info("gpu", "a"), 1.0, 2.5)
    file = tmp_path / "data" / "costs.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text() + 'torn\n{"name": "gpu"}\n[1]\n')
    assert [each.id for each in costs.past()] == ["a"]

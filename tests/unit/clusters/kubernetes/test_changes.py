"""A profile that was changed while its cluster is up."""

from __future__ import annotations

import json

from nbcloud.clusters.kubernetes.changes import changed, started_with
from nbcloud.config.kinds import KubernetesProfile, Volume, WorkerGroup

BEFORE = KubernetesProfile(
    env={"TOKEN": "secret-1"},
    workers=WorkerGroup(env={"KEY": "secret-2"}, volumes=(Volume(path="/data", claim="data"),)),
    groups={"gpus": WorkerGroup(gpus=1)},
)


def kept(settings: KubernetesProfile = BEFORE) -> dict:
    return json.loads(json.dumps(started_with(settings)))


def test_values_of_the_environment_are_not_kept() -> None:
    assert "secret-1" not in json.dumps(kept())
    assert "secret-2" not in json.dumps(kept())
    assert kept()["workers.env"] == ["KEY"]


def test_what_is_as_it_was_is_not_told() -> None:
    assert changed(kept(), BEFORE) == []
    assert changed({}, BEFORE) == []
    assert changed(kept(), KubernetesProfile(**{**vars(BEFORE), "start_timeout": 5.0})) == []


def test_each_change_is_told_with_both_values() -> None:
    now = KubernetesProfile(
        env={"TOKEN": "secret-1", "MORE": "x"},
        workers=WorkerGroup(memory=2**33, env={"KEY": "secret-2"}, volumes=BEFORE.workers.volumes),
        groups={"large": WorkerGroup(gpus=8)},
    )
    told = changed(kept(), now)
    assert "workers.memory is 4.0 GiB there, and 8.0 GiB in the profile" in told
    assert "env is ['TOKEN'] there, and ['MORE', 'TOKEN'] in the profile" in told
    assert "groups.gpus.gpus is 1 there, and not set in the profile" in told
    assert "groups.large.gpus is not set there, and 8 in the profile" in told

"""How many runs a cluster has at once."""

import pytest

from nbcloud.clusters.base import ClusterInfo
from nbcloud.dispatch import links
from nbcloud.dispatch.links import Room
from nbcloud.errors import ClusterLost


class Linked:
    """What a room needs of a link."""

    def __init__(self, **options):
        self.info = ClusterInfo(name="a", id="1", kind="kubernetes", address="tls://a", options=options)


@pytest.fixture
def workers(monkeypatch):
    """Threads of the workers that the scheduler tells of; each question counts."""
    threads, asked = [], []

    def status(info):
        asked.append(info)
        if None in threads:
            raise ClusterLost("It does not answer.")
        return {"workers": [{"nthreads": each} for each in threads]}

    monkeypatch.setattr(links, "status", status)
    monkeypatch.setattr(links, "_ROOM_SECONDS", -1.0)
    return threads, asked


def test_the_room_grows_with_the_workers(workers):
    threads, _ = workers
    room = Room(Linked())
    assert room.count() == 1, "one waits for the first worker"
    threads += [2, 2]
    assert room.count() == 4


def test_what_a_cluster_may_grow_to_counts_since_only_work_has_it_grow(workers):
    threads, _ = workers
    threads += [2]
    groups = {"default": {"maximum": 8, "threads": 2}, "gpu": {"maximum": 1, "threads": 4}}
    assert Room(Linked(groups=groups)).count() == 20


def test_a_scheduler_that_does_not_answer_leaves_the_room_as_it_was(workers):
    threads, _ = workers
    threads += [3]
    room = Room(Linked())
    assert room.count() == 3
    threads += [None]
    assert room.count() == 3


def test_the_scheduler_is_not_asked_each_time(workers, monkeypatch):
    _, asked = workers
    monkeypatch.setattr(links, "_ROOM_SECONDS", 3600.0)
    room = Room(Linked())
    for _ in range(10):
        room.count()
    assert len(asked) == 1

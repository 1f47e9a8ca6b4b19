"""As many workers as the waiting work needs, of the group that costs least."""

from __future__ import annotations

from nbcloud.clusters.kubernetes.demand import Group, Want, wanted_workers


def group(key: str, maximum: int = 4, joined: int = 0, price: float = 0.0, **resources: float) -> Group:
    made = Group(key, f"c-{key}", 0, maximum, 60, 3600, {"CPU": 2.0, "MEMORY": 8.0, **resources}, price)
    made.joined = joined
    return made


CPU, GPU = group("cpu"), group("gpu", GPU=1.0)


def test_nothing_waits() -> None:
    assert wanted_workers([], [CPU], []) == {}


def test_a_session_that_fits_somewhere_needs_no_worker() -> None:
    assert wanted_workers([Want({"CPU": 1})], [CPU], [{"CPU": 2.0}]) == {}


def test_each_session_gets_room_of_its_own() -> None:
    wants = [Want({"CPU": 2}) for _ in range(3)]
    assert wanted_workers(wants, [CPU], [{"CPU": 2.0}]) == {"cpu": 2}


def test_small_ones_share_a_worker() -> None:
    assert wanted_workers([Want({"CPU": 1}) for _ in range(3)], [CPU], []) == {"cpu": 2}


def test_a_session_without_wishes_needs_one_worker_at_all() -> None:
    assert wanted_workers([Want({})], [CPU, GPU], []) == {"cpu": 1}
    assert wanted_workers([Want({})], [CPU, GPU], [{"CPU": 0.0}]) == {}


def test_gpus_are_kept_for_those_who_want_them() -> None:
    assert wanted_workers([Want({"CPU": 1})], [GPU, CPU], []) == {"cpu": 1}
    assert wanted_workers([Want({"GPU": 1})], [GPU, CPU], []) == {"gpu": 1}


def test_the_cheaper_group_grows() -> None:
    dear, cheap = group("dear", price=3.0), group("worse", price=1.0)
    assert wanted_workers([Want({"CPU": 1})], [dear, cheap], []) == {"worse": 1}


def test_a_group_never_grows_beyond_its_maximum() -> None:
    full = group("full", maximum=2, joined=1)
    assert wanted_workers([Want({"CPU": 2}) for _ in range(5)], [full], []) == {"full": 1}


def test_what_fits_nowhere_asks_for_nothing() -> None:
    assert wanted_workers([Want({"GPU": 2})], [GPU, CPU], []) == {}


def test_tasks_in_line_are_worth_a_worker_for_every_few() -> None:
    assert wanted_workers([Want({}, 9, is_tasks=True)], [CPU], []) == {"cpu": 3}
    assert wanted_workers([Want({}, 9, is_tasks=True)], [CPU], [{"CPU": 0.0}]) == {"cpu": 3}

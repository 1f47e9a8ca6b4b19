"""What differs between two sides is named by what it breaks."""

from __future__ import annotations

import pytest

from nbcloud.clusters.environment import NEEDED, SOURCE, Facts, differences, here, probe_function

MINE = here()


def other(python: str = MINE.python, drop: str = "", **versions: str) -> Facts:
    packages = {name: version for name, version in MINE.packages.items() if name != drop}
    return Facts(python, packages={**packages, **{name.replace("_", "-"): v for name, v in versions.items()}})


def test_the_same_is_no_difference() -> None:
    assert differences(MINE, other()) == []


def test_this_process_has_all_that_is_needed() -> None:
    assert {name.replace("_", "-") for name in NEEDED} <= MINE.packages.keys()


def test_a_lack_is_named() -> None:
    (found,) = differences(MINE, other(drop="xxhash"))
    assert (found.package, found.matters) == ("xxhash", "missing")


@pytest.mark.parametrize(
    ("there", "package", "matters"),
    [
        (other(python="3.8.1"), "Python", "breaks"),
        (other(cloudpickle="1.0"), "cloudpickle", "breaks"),
        (other(numpy="1.26.4"), "numpy", "breaks"),
        (other(dask="2026.1.0"), "dask", "may break"),
    ],
)
def test_what_differs(there: Facts, package: str, matters: str) -> None:
    (found,) = differences(MINE, there)
    assert (found.package, found.matters) == (package, matters)
    assert "here and" in str(found)


def test_a_patch_release_of_python_is_no_difference() -> None:
    minor = ".".join(MINE.python.split(".")[:2])
    assert differences(MINE, other(python=f"{minor}.99")) == []


def test_the_probe_needs_nothing_of_ours() -> None:
    import pickle

    assert "nbcloud" not in SOURCE
    assert b"nbcloud" not in probe_function()
    assert Facts.of(pickle.loads(probe_function())(("dask",))).packages.keys() == {"dask"}

"""From what the values of a parameter are drawn."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nbcloud.errors import UsageError
from nbcloud.workflows.distributions import Distribution, distribution, domain, drawn
from nbcloud.workflows.parameters import grid, values_of

KNOWN = {"rate": 0.1, "width": 16, "name": "a"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("uniform:0:1", Distribution(0.0, 1.0)),
        ("loguniform:1e-4:1e-1", Distribution(1e-4, 0.1, log=True)),
        ("randint:1:9", Distribution(1, 9, whole=True)),
        ("lograndint:16:1025", Distribution(16, 1025, whole=True, log=True)),
    ],
)
def test_a_text_means_a_distribution_and_back(text: str, meant: Distribution):
    assert distribution(text) == meant
    assert distribution(str(meant)) == meant
    source = random.Random(1)
    numbers = [meant.draw(source) for _ in range(2000)]
    assert meant.low <= min(numbers)
    assert max(numbers) < meant.high or not meant.whole
    assert {type(each) for each in numbers} == {int if meant.whole else float}
    middle = (meant.low * meant.high) ** 0.5 if meant.log else (meant.low + meant.high) / 2
    assert 0.4 < sum(each < middle for each in numbers) / 2000 < 0.6


@pytest.mark.parametrize("text", ["0:4", "a,b", "uniform", "normal:0:1", "uniform:0:1:2"])
def test_other_texts_mean_something_else(text: str):
    assert distribution(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uniform:1:0", "first bound must be below"),
        ("uniform:0:inf", "first bound must be below"),
        ("loguniform:0:1", "above 0"),
        ("randint:0:1.5", "whole numbers"),
        ("uniform:a:1", "must be numbers"),
    ],
)
def test_wrong_bounds_are_refused(text: str, said: str):
    with pytest.raises(UsageError, match=said):
        distribution(text)


def test_a_parameter_of_a_notebook_is_drawn_as_its_default_is():
    assert values_of(KNOWN, "rate=uniform:0:1") == ("rate", Distribution(0.0, 1.0))
    assert values_of(KNOWN, "name=uniform:0:1") == ("name", ["uniform:0:1"])  # it is a text
    with pytest.raises(UsageError, match=r"width=uniform:0\.0:1\.0: it must be a whole number"):
        values_of(KNOWN, "width=uniform:0:1")


def test_members_are_drawn_once_each_and_alike_for_one_seed():
    domains = {"a": [1, 2, 3], "b": ["x", "y"]}
    found = drawn(domains, 6, seed=3)
    assert sorted(found, key=repr) == sorted(grid(domains), key=repr)
    mixed = {**domains, "c": Distribution(1e-3, 1.0, log=True)}
    assert drawn(mixed, 5, seed=3) == drawn(mixed, 5, seed=3) != drawn(mixed, 5, seed=4)
    with pytest.raises(UsageError, match="the grid has only 6 members"):
        drawn(domains, 7, seed=3)
    with pytest.raises(UsageError, match="not so many different members"):
        drawn({"n": Distribution(0, 2, whole=True)}, 5, seed=0)


def test_a_distribution_has_no_grid():
    with pytest.raises(UsageError, match="has no end of values"):
        grid({"a": Distribution(0.0, 1.0)})


def test_values_from_python_are_as_a_notebook_can_hold_them():
    found = domain([np.int64(3), np.float32(0.5), Path("a/b"), None])
    assert found == [3, 0.5, "a/b", None]
    assert [type(each) for each in found[:2]] == [int, float]
    assert domain([(1, 2), {3}, np.arange(2), {"a": (np.bool_(True),)}, range(2)]) == [
        [1, 2],
        [3],
        [0, 1],
        {"a": [True]},
        [0, 1],
    ]
    assert domain("uniform:0:1") == Distribution(0.0, 1.0)
    with pytest.raises(UsageError, match="'adam' is no list"):
        domain("adam")
    with pytest.raises(UsageError, match="no values"):
        domain([])


@pytest.mark.parametrize(
    ("value", "said"),
    [(1j, "a complex: 1j"), ({1: 2}, "keys are no texts"), ([b"a"], "a bytes"), (object(), "a object")],
)
def test_what_papermill_would_write_as_its_text_is_refused(value: object, said: str):
    with pytest.raises(UsageError, match=said):
        domain([value])

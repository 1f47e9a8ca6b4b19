"""Parameters of a notebook, as text: unknown and mistyped ones are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from nbcloud.errors import UsageError
from nbcloud.workflows.parameters import check, check_domain, declared, grid, typed, values_of

KNOWN = {"rate": 0.1, "seed": 0, "name": "a", "deep": True, "sizes": [1], "limit": None, "made": ...}


def test_the_parameters_and_their_defaults_are_read_off_the_cell(tmp_path: Path):
    code = "rate = 0.1  # the rate\nseed: int = 3\nname = 'a'\nsizes = [1, 2]\nlimit = None\nmade = dict(a=1)"
    cell = nbformat.v4.new_code_cell(code, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "in.ipynb")
    found = declared(str(tmp_path / "in.ipynb"))
    assert found == {"rate": 0.1, "seed": 3, "name": "a", "sizes": [1, 2], "limit": None, "made": ...}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rate", "1", 1.0),
        ("rate", "1e-3", 0.001),
        ("rate", "inf", float("inf")),
        ("seed", "-4", -4),
        ("deep", "false", False),
        ("name", "12", "12"),
        ("name", "True", "True"),
        ("name", "'12'", "12"),
        ("name", "data/a b.csv", "data/a b.csv"),
        ("sizes", "[1, 2]", [1, 2]),
        ("limit", "3", 3),
        ("limit", "none", None),
        ("limit", "abc", "abc"),
        ("made", "{'a': 1}", {"a": 1}),
    ],
)
def test_a_text_becomes_what_the_default_is(name: str, text: str, value: object):
    found = typed(KNOWN, name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ratte", "1", "Did you mean 'rate'"),
        ("seed", "1.5", "must be a whole number; its default is 0"),
        ("seed", "True", "must be a whole number"),
        ("rate", "quick", "must be a number"),
        ("deep", "1", "must be True or False"),
        ("sizes", "1", "must be a list"),
    ],
)
def test_what_does_not_fit_is_refused_unless_it_is_asked_for(name: str, text: str, said: str):
    with pytest.raises(UsageError, match=said):
        typed(KNOWN, name, text)
    typed(KNOWN, name, text, loose=True)


@pytest.mark.parametrize("text", ["(3, 4)", "[3, 4]", "3, 4"])
def test_a_tuple_is_given_as_a_list_which_papermill_can_write(text: str):
    assert typed({"size": (1, 2)}, "size", text) == [3, 4]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rate=0.1,0.01", [0.1, 0.01]),
        ("seed=0:4", [0, 1, 2, 3]),
        ("seed=4:0:-2", [4, 2]),
        ("rate=0:1:0.25", [0.0, 0.25, 0.5, 0.75]),
        ("name=a,b", ["a", "b"]),
        ("sizes=[[1,2],[3]]", [[1, 2], [3]]),
        ("deep=true,False", [True, False]),
        ("limit=none,3", [None, 3]),
    ],
)
def test_a_grid_has_lists_and_ranges(text: str, values: list[object]):
    assert values_of(KNOWN, text) == (text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["rate", "rate=", "seed=0:4:0", "seed=4:0"])
def test_what_is_no_list_of_values_is_refused(text: str):
    with pytest.raises(UsageError, match="Write for example"):
        values_of(KNOWN, text)


def test_a_range_without_end_is_refused():
    with pytest.raises(UsageError, match=r"more than 100000 values.*--random"):
        values_of(KNOWN, "seed=0:1e30")


@pytest.mark.parametrize("text", ["rate=0.1,0.2,0.10", "name=a,b,a"])
def test_a_value_that_is_given_twice_is_refused(text: str):
    with pytest.raises(UsageError, match="twice"):
        values_of(KNOWN, text)


def test_what_is_no_notebook_is_refused_in_one_sentence(tmp_path: Path):
    (tmp_path / "train.py").write_text("print(1)")
    with pytest.raises(UsageError, match="can't be read as a notebook"):
        declared(str(tmp_path / "train.py"))


def test_a_parameter_without_a_value_is_refused():
    with pytest.raises(UsageError, match="seed has no value"):
        check_domain(KNOWN, "seed", [])


def test_a_grid_is_every_combination():
    assert grid({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]


def test_values_from_python_are_checked_as_they_are():
    check(KNOWN, {"rate": 1, "seed": 2, "name": "x", "limit": "any"})
    with pytest.raises(UsageError, match="must be a whole number"):
        check(KNOWN, {"seed": 1.5})
    with pytest.raises(UsageError, match="no parameter 'sed'"):
        check(KNOWN, {"sed": 1})

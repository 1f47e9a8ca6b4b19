"""What users may rely on: public names, and errors that say what they are wherever they are caught."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

import nbcloud
from nbcloud import errors

ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.NbcloudError) and kind.__module__ == errors.__name__
]


def test_public_names() -> None:
    assert set(nbcloud.__all__) == {
        "CloudRun",
        "Handle",
        "NbcloudError",
        "__version__",
        "autolog",
        "export",
        "flush",
        "load",
        "load_ipython_extension",
        "log_artifact",
        "log_dataset",
        "log_figure",
        "log_metric",
        "log_metrics",
        "log_param",
        "log_params",
        "record",
        "rerun",
        "secret",
        "set_experiment",
        "set_tag",
        "set_tags",
        "start_run",
        "sweep",
    }


@pytest.mark.parametrize("name", nbcloud.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(nbcloud, name) is not None
    assert name in dir(nbcloud)


def test_an_unknown_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'nbcloud' has no attribute 'upp'"):
        nbcloud.upp  # noqa: B018


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_pickling(kind: type[errors.NbcloudError]) -> None:
    error = kind("It broke.", "Mend it.", run="r1", names=["a"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "It broke. Mend it."
    assert (again.message, again.hint, again.run, again.names) == ("It broke.", "Mend it.", "r1", ["a"])
    assert vars(again) == vars(error)


def _drawn() -> list[tuple[str, str, str]]:
    """The tree in the docstring: each error's name, its builtin, its parent."""
    above: list[str] = []
    drawn = []
    for line in re.findall(r"^    [│├└─ ]*\w+(?: \(\w+\))?", errors.__doc__ or "", re.MULTILINE):
        name, _, builtin = line.lstrip("│├└─ ").partition(" ")
        depth = (len(line) - len(line.lstrip("│├└─ ")) - 4) // 4
        above = [*above[:depth], name]
        drawn.append((name, builtin.strip("()"), above[-2] if depth else ""))
    return drawn


def test_the_tree_is_drawn_completely() -> None:
    assert {name for name, _, _ in _drawn()} == {kind.__name__ for kind in ERRORS}


@pytest.mark.parametrize(("name", "builtin", "parent"), _drawn())
def test_an_error_is_what_the_tree_says(name: str, builtin: str, parent: str) -> None:
    kind = getattr(errors, name)
    bases = [base.__name__ for base in kind.__bases__]
    assert bases == [each for each in (parent, builtin) if each] or name == "NbcloudError"

"""The folder of a sweep: what its file says, or why it can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbcloud.errors import UsageError
from nbcloud.workflows.sweep.folder import Sweep
from nbcloud.workflows.sweep.runner import Limits
from nbcloud.workflows.sweep.start import search_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "in.ipynb")
    search = {"domains": {"x": [1, 2]}, "trials": 4, "metric": "loss", "mode": "min", "seed": 0}
    Sweep.begin(tmp_path / "in.ipynb", tmp_path / "out", [{"x": 1}], search).keep_options(retries=1)
    return tmp_path / "out"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_was_begun_is_opened(folder: Path) -> None:
    found = Sweep.open(folder)
    assert [each.parameters for each in found.members] == [{"x": 1}]
    assert found.options == {"retries": 1}
    found.check_source()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("format", 2, "written by a newer nbcloud"),
        ("format", "one", "can't be read"),
        ("notebook", 3, "can't be read"),
        ("members", {"x": 1}, "can't be read"),
        ("members", [[1]], "can't be read"),
        ("search", "loss", "can't be read"),
        ("options", [1], "can't be read"),
    ],
)
def test_a_file_that_was_edited_wrongly_is_refused(folder: Path, field: str, value: Any, said: str) -> None:
    edit(folder, **{field: value})
    with pytest.raises(UsageError, match=said):
        Sweep.open(folder)


@pytest.mark.parametrize("search", [{"domains": 3}, {"domains": {"x": [1]}, "color": "red"}, {"trials": 3}])
def test_a_search_that_was_edited_wrongly_is_refused(folder: Path, search: dict[str, Any]) -> None:
    pytest.importorskip("optuna")
    edit(folder, search=search)
    with pytest.raises(UsageError, match=r"What sweep.json in .* says of the search can't be used"):
        search_of(Sweep.open(folder))


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("parallel", 0),
        ("parallel", "2"),
        ("retries", -1),
        ("retries", True),
        ("member_timeout", "soon"),
        ("until", 3),
        ("until", "loss below 3"),
    ],
)
def test_a_limit_that_can_not_be_one_is_refused(limit: str, value: Any) -> None:
    with pytest.raises(UsageError):
        Limits(**{limit: value})

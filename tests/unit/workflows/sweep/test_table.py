"""The table of a sweep, written to files whatever its texts are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcloud.runs.entries import line, metric
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
from nbcloud.workflows.sweep.table import Ended, Table

ODD = ["$x^{$", "<script>alert(1)</script>"]


@pytest.fixture
def table() -> Table:
    """Of two members, whose names and values mean something to HTML and to TeX."""
    members = []
    with Store() as store:
        for number, value in enumerate(ODD):
            run = store.begin(Run(name="member"))
            logged = metric("$\\frac$ <b>", number, None, 5.0)
            store.append(run.id, line(1, 5.0, {"run": "", "entries": [logged]}))
            store.update(run.id, state="done")
            members.append(Ended(number, {"$_$ <i>": value}, "done", 1.0, "", run.id, f"{number:04}.ipynb"))
    return Table("<title>", members)


def test_texts_are_shown_as_they_are(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "results.html")
    page = (tmp_path / "results.html").read_text()
    assert page.count("<img") == 1
    assert not any(each in page for each in ("<script>", "<b>", "<i>", "<title><"))
    assert "<td>$x^{$</td><td>0</td>" in page


def test_columns_of_texts_are_parquet(table: Table, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table.write(tmp_path / "table.parquet")
    assert list(pandas.read_parquet(tmp_path / "table.parquet")["$_$ <i>"]) == ODD

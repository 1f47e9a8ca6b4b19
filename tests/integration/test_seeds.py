"""The random numbers of a notebook are drawn anew each time, and are the same when it is run again."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

import nbcloud
from nbcloud.dispatch.links import close_links
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.runs.differences import differences
from nbcloud.workflows.notebook.run import run_notebook

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CODE = "import random\nimport numpy as np\nprint(random.random(), np.random.rand(2))"


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


@pytest.fixture
def source(tmp_path: Path) -> str:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(code) for code in ("first = 1", CODE)]
    nbformat.write(
        nbformat.v4.new_notebook(metadata={"kernelspec": kernel}, cells=cells), tmp_path / "in.ipynb"
    )
    return str(tmp_path / "in.ipynb")


def test_a_rerun_draws_what_was_drawn(source: str, tmp_path: Path) -> None:
    first, second = (
        run_notebook(source, str(tmp_path / f"{name}.ipynb"), progress_bar=False).run for name in "ab"
    )
    with open_store() as store:
        assert store.text(first) != store.text(second)
        found = differences(store, store.get(first), store.get(second))
    assert {(each.section, each.name) for each in found} == {("environment", "seed"), ("outputs", "")}
    again = nbcloud.rerun(first, output=tmp_path / "again.ipynb")
    assert again.same
    assert again.differences == []


def test_a_seed_can_be_given(source: str, tmp_path: Path) -> None:
    texts = []
    for name in "ab":
        done = run_notebook(source, str(tmp_path / f"{name}.ipynb"), seed=7, progress_bar=False)
        with open_store() as store:
            texts.append(store.text(done.run))
            assert store.get(done.run).extra["seed"] == 7
    assert texts[0] == texts[1]
    with pytest.raises(UsageError, match="seed=-1: it must be a whole number of at most 32 bits"):
        run_notebook(source, str(tmp_path / "none.ipynb"), seed=-1, progress_bar=False)

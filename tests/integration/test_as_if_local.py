"""Notebooks whose every cell gets ``%%cloud`` give, cell by cell, what they give without it.

Each file is a notebook: its cells stand behind ``# %%``. A cell marked ``unsteady`` shows something else
each time, here as well, so that only the kinds of its outputs are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbcloud.clusters.base import ClusterInfo
from nbcloud.runs.outputs import compose
from tests.integration.compare import differences
from tests.integration.notebooks import running_notebook

NOTEBOOKS = sorted((Path(__file__).parent / "as_if_local").glob("*.ipy"))


def _cells(path: Path) -> list[tuple[str, str]]:
    """What stands behind each mark, and the cell's text."""
    pieces = path.read_text().removeprefix("# %%").split("\n# %%")
    return [(mark.strip(), text.strip("\n")) for mark, _, text in (piece.partition("\n") for piece in pieces)]


def _execute(texts: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run cells in a new kernel; returns what each showed, in the form of nbformat.

    Not by nbclient: it plays the part of Output widgets by comm messages of its own, and then waits out its
    timeout for the reply in a few of a hundred such cells, without nbcloud as well.
    """
    folder.mkdir()
    cells = []
    with running_notebook(folder=folder) as notebook:
        for text in texts:
            shown = notebook.run(text)
            messages = [(m["msg_type"], m["content"], m["metadata"]) for m in shown.messages]
            cells.append({"execution_count": shown.count, "outputs": compose(messages)})
    return cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_gives_there_what_it_gives_here(
    path: Path, local_cluster: ClusterInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, ipykernel does not watch its descriptors
    marks, texts = zip(*_cells(path), strict=True)
    here = _execute(list(texts), tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "first")
    there = _execute([f"%%cloud\n{text}" for text in texts], tmp_path / "here")
    unsteady = {index for index, mark in enumerate(marks) if mark == "unsteady"}
    found = differences(here, there, unsteady)
    assert not found, "\n".join(map(str, found))

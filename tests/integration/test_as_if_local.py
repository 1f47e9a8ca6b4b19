"""Notebooks whose every cell gets ``%%cloud`` give, cell by cell, what they give without it.

Each file is a notebook: its cells stand behind ``# %%``. A cell marked ``unsteady`` shows something else
each time, here as well, so that only the kinds of its outputs are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from nbcloud.clusters.base import ClusterInfo
from tests.integration.compare import differences

NOTEBOOKS = sorted((Path(__file__).parent / "as_if_local").glob("*.ipy"))


def _cells(path: Path) -> list[tuple[str, str]]:
    """What stands behind each mark, and the cell's text."""
    pieces = path.read_text().removeprefix("# %%").split("\n# %%")
    return [(mark.strip(), text.strip("\n")) for mark, _, text in (piece.partition("\n") for piece in pieces)]


def _execute(first: str, texts: list[str], folder: Path) -> list[Any]:
    """Execute a notebook that begins with one more cell; returns the others."""
    folder.mkdir()
    notebook = new_notebook(cells=[new_code_cell(text) for text in (first, *texts)])
    client = NotebookClient(
        notebook,
        timeout=60,
        allow_errors=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return list(notebook.cells[1:])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_gives_there_what_it_gives_here(
    path: Path, local_cluster: ClusterInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, ipykernel does not watch its descriptors
    marks, texts = zip(*_cells(path), strict=True)
    here = _execute("pass", list(texts), tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "first")
    there = _execute("%load_ext nbcloud", [f"%%cloud\n{text}" for text in texts], tmp_path / "here")
    unsteady = {index for index, mark in enumerate(marks) if mark == "unsteady"}
    found = differences(here, there, unsteady)
    assert not found, "\n".join(map(str, found))

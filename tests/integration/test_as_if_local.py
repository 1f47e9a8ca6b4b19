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


VALUES_ONLY = {"classes", "inplace", "numpy_views", "model_optimizer"}
"""Notebooks whose cells have nothing but variables in common: no widgets, open files, environment, caches."""

CLOUD_CELLS = {"every": (0, 1), "odd": (1,), "even": (0,)}
"""Which of two cells go to the cluster."""


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in NOTEBOOKS])
def test_every_cell_gives_there_what_it_gives_here(
    path: Path, local_cluster: ClusterInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, ipykernel does not watch its descriptors
    marks, texts = zip(*_cells(path), strict=True)

    def execute(which: str, chosen: tuple[int, ...]) -> list[dict[str, Any]]:
        # Each time in a folder of the same name, which some cells show.
        cells = _execute(
            [f"%%cloud\n{text}" if index % 2 in chosen else text for index, text in enumerate(texts)],
            tmp_path / "here",
        )
        (tmp_path / "here").rename(tmp_path / which)
        return cells

    here = execute("none", ())
    # An array that has travelled has its memory from the journey: a view of it has that for its base.
    found = []
    for which, chosen in CLOUD_CELLS.items():
        if which == "every" or path.stem in VALUES_ONLY:
            loose = {"unsteady"} if which == "every" else {"unsteady", "identity"}
            unsteady = {index for index, mark in enumerate(marks) if mark in loose}
            found += [f"{which}: {each}" for each in differences(here, execute(which, chosen), unsteady)]
    assert not found, "\n".join(found)

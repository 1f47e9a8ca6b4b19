"""Cells that are not to run, by their tags."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nbcloud.dispatch.links import close_links
from nbcloud.errors import UsageError
from nbcloud.workflows.notebook.outcome import Stage, outcome
from tests.integration.files import run, write

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
]


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A notebook that was run before; its second cell has what it printed then, its third an error."""
    path = write(tmp_path / "in.ipynb", "print('now')", ("plot()", "slow"), ("old", "broken"), "print('end')")
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        cell.execution_count = 7
        cell.outputs = [nbformat.v4.new_output("stream", text="then\n")]
    notebook.cells[2].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    nbformat.write(notebook, path)
    return path


def test_cells_with_a_tag_keep_what_they_have(source: Path, tmp_path: Path):
    output = tmp_path / "out.ipynb"
    ours = run(source, output, "nbcloud", skip_tags=["slow", "broken"])
    texts = [["".join(each.text) for each in cell.outputs] for cell in ours.cells]
    assert texts == [["now\n"], ["then\n"], [], ["end\n"]]  # papermill would take an old error for a new one
    assert [cell.execution_count for cell in ours.cells] == [1, 7, None, 2]
    statuses = [cell.metadata.papermill.status for cell in ours.cells]
    assert statuses == ["completed", "skipped", "skipped", "completed"]
    assert outcome(output).stage is Stage.DONE


def test_a_tag_that_no_cell_has_is_refused(source: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"has the tag 'slo'.* Did you mean 'slow'"):
        run(source, tmp_path / "out.ipynb", "nbcloud", skip_tags=["slo"])
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize("way", ["run", "sweep"])
def test_the_command_line_skips(source: Path, tmp_path: Path, way: str):
    output = tmp_path / "folder" / "0000.ipynb"
    more = (
        [str(output), "--no-progress"] if way == "run" else ["-o", str(output.parent), "-g", "a=1", "--loose"]
    )
    if way == "run":
        output.parent.mkdir()
    skipped = ["--skip-tag", "slow", "--skip-tag", "broken"]
    command = [sys.executable, "-m", "nbcloud", way, str(source), *more, *skipped]
    subprocess.run(command, check=True, timeout=120, env=os.environ.copy())
    assert outcome(output).stage is Stage.DONE

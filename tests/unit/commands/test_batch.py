"""Notebooks from files: what can't be written is refused before a cluster is started for it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from nbcloud import cli
from nbcloud.runs.files import write_atomically


@pytest.fixture
def notebook(tmp_path: Path) -> str:
    path = tmp_path / "in.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    return str(path)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "is a folder. Name a file: "),
        ("none/out.ipynb", "There is no folder "),
        ("in.ipynb/out", "mkdir"),
    ],
)
def test_run_says_what_is_wrong_with_its_output(
    notebook: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, said: str
):
    assert cli.main(["run", notebook, str(tmp_path / output)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["in.ipynb", "in.ipynb/deeper"])
def test_a_file_where_a_sweep_should_be_is_named(
    notebook: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
):
    assert cli.main(["sweep", notebook, "-o", str(tmp_path / folder)]) == 2
    assert "a file is in its place. Choose another: -o FOLDER" in capsys.readouterr().err
    assert cli.main(["results", str(tmp_path / folder)]) == 2
    assert "holds no sweep" in capsys.readouterr().err


def test_a_file_that_can_not_be_written_is_named_as_the_caller_knows_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none" / "table.csv", b"", sync=False)
    assert caught.value.filename == str(tmp_path / "none" / "table.csv")

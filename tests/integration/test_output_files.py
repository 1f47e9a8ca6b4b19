"""The file that a notebook becomes: whole at any moment, where it was asked for, and gone on with wherever it is."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import papermill_io

import nbcloud
from nbcloud.dispatch.links import close_links
from nbcloud.errors import RemoteError, RunLost, UsageError
from nbcloud.workflows.claims import claimed
from nbcloud.workflows.notebook.outcome import Stage
from nbcloud.workflows.notebook.run import run_notebook
from nbcloud.workflows.sweep.folder import Sweep
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


def test_papermills_last_write_is_no_moment_in_which_half_is_there(tmp_path: Path):
    source = write(tmp_path / "in.ipynb", "for _ in range(16):\n    print('x' * 500_000)")
    output = tmp_path / "out.ipynb"
    broken: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            text = output.read_text() if output.exists() else "{}"
            if not text.endswith("}"):
                broken.append(text[-20:])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        run_notebook(str(source), str(output), progress_bar=False)
    finally:
        ended.set()
        reader.join()
    assert broken == []
    assert json.loads(output.read_text())["metadata"]["papermill"]["output_path"] == str(output)


@pytest.mark.parametrize("way", ["papermill", "nbcloud"])
def test_a_notebook_that_runs_in_a_folder_is_written_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    source = write(Path("in.ipynb"), "import os\nprint(os.path.basename(os.getcwd()))")
    if way == "papermill":
        run(source, Path("out.ipynb"), "nbcloud", cwd="folder")
    else:
        run_notebook(str(source), "out.ipynb", progress_bar=False, cwd="folder")
    assert nbformat.read("out.ipynb", 4).cells[0].outputs[0].text == "folder\n"
    assert not [*Path("folder").iterdir()]


@pytest.mark.parametrize("way", ["papermill", "nbcloud"])
def test_a_link_to_the_file_stays_and_leads_to_the_same_claim(tmp_path: Path, way: str):
    source = write(tmp_path / "in.ipynb", "print('there')")
    output, link = tmp_path / "out.ipynb", tmp_path / "latest.ipynb"
    link.symlink_to(output)

    def start() -> None:
        if way == "papermill":
            run(source, link, "nbcloud")
        else:
            run_notebook(str(source), str(link), progress_bar=False)

    with claimed(str(output)), pytest.raises(UsageError, match="Another process is writing"):
        start()
    start()
    assert link.is_symlink()
    assert nbformat.read(output, 4).cells[0].outputs[0].text == "there\n"


class Shelf:
    """Storage of another kind, as papermill's plugins bring it."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}

    def read(self, path: str) -> str:
        return self.content[path]

    def write(self, text: str, path: str) -> None:
        self.content[path] = text

    def pretty_path(self, path: str) -> str:
        return path


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf()
    papermill_io.register("shelf://", shelf)
    return shelf


def test_a_notebook_that_is_elsewhere_is_gone_on_with(tmp_path: Path, shelf: Shelf):
    die = "import os, pathlib\nif pathlib.Path(flag).exists():\n    os.unlink(flag)\n    os._exit(3)"
    flag = tmp_path / "flag"
    flag.touch()
    source = write(
        tmp_path / "in.ipynb", (f"flag = {str(flag)!r}\nprint(id(flag))", "checkpoint"), die, "print('end')"
    )
    with pytest.raises(RunLost):
        run_notebook(str(source), "shelf://out.ipynb", progress_bar=False)
    before = json.loads(shelf.content["shelf://out.ipynb"])["cells"][0]["outputs"]
    end = run_notebook(str(source), "shelf://out.ipynb", resume=True, progress_bar=False)
    assert end.stage is Stage.DONE
    assert json.loads(shelf.content["shelf://out.ipynb"])["cells"][0]["outputs"] == before


def test_the_members_of_a_sweep_run_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    source = write(
        Path("in.ipynb"), ("a = 1", "parameters"), "import os\nprint(os.path.basename(os.getcwd()))"
    )
    nbcloud.sweep(source, {"a": [1, 2, 3, 4, 5, 6]}, "sweeps", parallel=2, cwd="folder")
    for path in Path("sweeps").glob("*.ipynb"):
        assert nbformat.read(path, 4).cells[-1].outputs[0].text == "folder\n"
    assert Path.cwd() == tmp_path


def test_the_name_of_a_parameter_is_no_code(tmp_path: Path):
    source, output = write(tmp_path / "in.ipynb", "print(1)"), tmp_path / "out.ipynb"
    hostile = {f"a = open({str(tmp_path / 'made')!r}, 'w') #": 1}
    with pytest.raises(UsageError, match="is not the name of a variable"):
        run_notebook(str(source), str(output), hostile, progress_bar=False)
    Sweep.begin(source, tmp_path / "sweep", [hostile])
    with pytest.raises(UsageError, match="is not the name of a variable"):
        nbcloud.sweep(source, {}, tmp_path / "sweep", resume=True)
    assert not (tmp_path / "made").exists()


def test_what_is_gone_on_with_has_the_parameters_that_it_had(tmp_path: Path):
    fails = "import pathlib\nif not pathlib.Path('mended').exists():\n    raise ValueError(x)\nprint(x)"
    source = write(tmp_path / "in.ipynb", ("x = 1", "parameters"), fails)
    output = tmp_path / "out.ipynb"
    with pytest.raises(RemoteError, match="ValueError: 2"):
        run_notebook(str(source), str(output), {"x": 2}, progress_bar=False, cwd=tmp_path)
    (tmp_path / "mended").touch()
    end = run_notebook(str(source), str(output), resume=True, progress_bar=False, cwd=tmp_path)
    assert (end.stage, end.parameters) == (Stage.DONE, {"x": 2})
    assert nbformat.read(output, 4).cells[-1].outputs[0].text == "2\n"
    written = output.stat().st_mtime_ns
    assert run_notebook(str(source), str(output), resume=True, progress_bar=False).run == end.run
    assert output.stat().st_mtime_ns == written  # it was done
    begun = nbformat.read(output, 4)
    begun.cells[-1].metadata.papermill.status = "running"
    nbformat.write(begun, output)
    with pytest.raises(UsageError, match="was run with x=2, and can't be gone on with by 7"):
        run_notebook(str(source), str(output), {"x": 7}, resume=True, progress_bar=False)

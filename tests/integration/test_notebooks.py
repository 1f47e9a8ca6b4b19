"""The notebooks that we ship run from the first cell to the last, on a real cluster."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from nbcloud.clusters import registry
from nbcloud.runs.store import Store

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_ANSI = re.compile(r"\x1b\[[\d;]*m")

Cells = dict[str, str]


@pytest.fixture
def execute(tmp_path: Path, nbcloud_dirs: Path) -> Callable[[Path], nbformat.NotebookNode]:
    """Execute a notebook as Jupyter does; only a cell tagged ``raises-exception`` may fail."""

    def run(path: Path) -> nbformat.NotebookNode:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=_at(tmp_path)).execute()
        return notebook

    return run


def _at(folder: Path) -> dict[str, Any]:
    return {"metadata": {"path": str(folder)}}


def shown(notebook: nbformat.NotebookNode) -> Cells:
    """What each code cell shows, by the cell's id: text without colours and without empty lines around it."""
    texts = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts[cell.id] = _ANSI.sub("", "".join(_text(output) for output in cell.outputs)).strip()
    return texts


def _text(output: nbformat.NotebookNode) -> str:
    match output.output_type:
        case "stream":
            return str(output.text)
        case "error":
            return "\n".join(output.traceback)
        case _:
            return str(output.data["text/plain"]) + "\n"


def test_the_cloud_cell(execute: Callable[[Path], nbformat.NotebookNode]) -> None:
    notebook = execute(FOLDER / "01-cloud-cell.ipynb")
    cells = shown(notebook)

    assert re.fullmatch(r"The cluster 'local' is up at tls://127\.0\.0\.1:\d+: \d workers .*", cells["up"])
    epochs = re.findall(r"^epoch +(\d+): loss (\S+), test accuracy (\S+)%$", cells["train"], re.MULTILINE)
    assert [int(epoch) for epoch, _, _ in epochs] == list(range(3, 31, 3))
    assert float(epochs[-1][1]) < 0.1 < float(epochs[0][1])
    assert float(epochs[-1][2]) > 95

    (figure,) = next(cell for cell in notebook.cells if cell.id == "plot").outputs
    assert base64.b64decode(figure.data["image/png"]).startswith(b"\x89PNG")

    model, there, here = re.fullmatch(r"(\w+): (\S+)% there, (\S+)% here", cells["use"]).groups()
    assert (model, there) == ("MLPClassifier", here)

    assert cells["distances"] == ""
    assert "stays on session" in cells["handle"]
    assert "1,347 x 1,347 float64" in cells["handle"]
    assert re.match(r"9\d\.\d% of the images lie nearest", cells["nearest"])
    assert cells["get"] == "(1347, 1347)"

    assert "Cell In[11], line 2, in share(right, all_of_them)" in cells["error"]
    assert "----> 2     return len(right) / len(all_of_them)" in cells["error"]
    assert cells["error"].endswith("ZeroDivisionError: division by zero")

    assert re.fullmatch(r"<run r\w+ 'search' on 'local', (queued|running)>", cells["search"])
    assert cells["result"] in {"10", "100"}
    lines = [f"SVC with C={c}: accuracy" for c in ("0.1", "1", "10", "100")]
    assert [line.rpartition(" ")[0] for line in cells["attach"].splitlines()] == lines

    assert {"digits", "search"} <= set(cells["runs"].split())
    assert re.search(r"failed .* ZeroDivisionError$", cells["runs"], re.MULTILINE)
    kinds = [line.split()[0] for line in cells["status"].splitlines()[1:-1]]
    assert kinds == ["worker"] * kinds.count("worker") + ["session"]
    assert cells["down"] == "Stopped: 'local'."

    assert registry.entries() == []
    with Store() as store:
        (training,) = store.search(tag="data=digits")
        assert training.name == "digits"
        assert store.text(training.id) == cells["train"] + "\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    """Times, addresses and names differ from run to run, and would only make noise in the history."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_snippets_of_the_readme(tmp_path: Path, nbcloud_dirs: Path) -> None:
    """Each is a cell of one notebook, in the order of the text."""
    text = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    # The notebook that it names, and the end of the cluster that runs it.
    train = new_notebook(
        cells=[
            new_code_cell("lr = 0.1\nseed = 0", metadata={"tags": ["parameters"]}),
            new_code_cell("import nbcloud\nnbcloud.log_metric('loss', lr + seed)"),
        ]
    )
    nbformat.write(train, tmp_path / "train.ipynb")
    snippets.append("%cloud down")
    notebook = new_notebook(cells=[new_code_cell(snippet.rstrip()) for snippet in snippets])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=_at(tmp_path)).execute()
    said = "\n".join(shown(notebook).values())
    assert "1 0.0\n2 1.0\n" in said.replace("-0.0", "0.0")
    assert "True [" in said
    assert "<cubes stays on session" in said
    assert "\n0\n1\n2\n" in said
    assert said.count("Stopped: 'local'.") == 3
    assert re.search(r"0\.01 +3 +3\.01 +done", said)
    assert "array([" in said
    assert "Kept as models:/digits/1#edge-arm64-" in said
    assert registry.entries() == []


def test_every_notebook_has_a_test() -> None:
    assert [path.name for path in NOTEBOOKS] == ["01-cloud-cell.ipynb"]

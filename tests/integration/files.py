"""Notebooks that papermill reads from a file and writes to another."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from nbcloud.dispatch.recorder import open_store
from nbcloud.runs.record import Run

PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def write(path: Path, *cells: str | tuple[str, str]) -> Path:
    """A notebook of code cells; one with a tag is a pair."""
    notebook = nbformat.v4.new_notebook(metadata=PYTHON)
    for cell in cells:
        code, tags = (cell, []) if isinstance(cell, str) else (cell[0], [cell[1]])
        notebook.cells.append(nbformat.v4.new_code_cell(code, metadata={"tags": tags}))
    nbformat.write(notebook, path)
    return path


def run(source: Path, output: Path, engine: str | None, **options: object) -> NotebookNode:
    """Run a notebook; what it raises is in the file."""
    with contextlib.suppress(PapermillExecutionError):
        papermill.execute_notebook(
            str(source), str(output), engine_name=engine, kernel_name="python3", progress_bar=False, **options
        )
    return nbformat.read(output, 4)


def started(source: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "papermill", str(source), str(output), "--engine", "nbcloud"]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ.copy(),
    )


def on_record(run_id: str) -> Run:
    with open_store() as store:
        return store.get(run_id)


def wait_for_output(path: Path, text: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{text} never came"
        time.sleep(0.05)

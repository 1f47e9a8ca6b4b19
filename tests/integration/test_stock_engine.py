"""Notebooks on which engines differ first come out as from papermill's own: outputs, counts, metadata, errors.

``python -m tests.sweeps.notebooks FOLDER`` compares all of a folder, such as those of papermill and nbclient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

from nbcloud.dispatch.links import close_links
from tests.integration.files import PYTHON
from tests.sweeps.notebooks import differences, run, seen

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
]

Case = tuple[list[Any], dict[str, Any]]


def code(text: str, *tags: str) -> Any:
    """A cell that has an output of a former run."""
    old = nbformat.v4.new_output("stream", text="old\n")
    return new_code_cell(text, metadata={"tags": [*tags], "mine": 1}, execution_count=9, outputs=[old])


CASES: dict[str, Case] = {
    "no code": ([new_markdown_cell("# Only text"), new_raw_cell("raw"), code("")], {}),
    "parameters": (
        [code("rate, name = 0.1, 'a'", "parameters"), code("print(rate, name, label)")],
        {"parameters": {"rate": None, "name": "ü\n'☃'", "label": [1, {"a": True}]}, "report_mode": True},
    ),
    "errors that are allowed": (
        [
            code("1 / 0", "raises-exception"),
            code("def f():\n    raise ValueError('später ☃')\nf()"),
            code("for"),
            code("get_ipython().run_cell_magic('nothing', '', '')"),
            code("print(_i)\n_, __"),
        ],
        {"allow_errors": True},
    ),
    "the first error": ([code("1"), code("import sys\nsys.exit('no')"), code("2")], {}),
    "cells that are skipped": ([code("1 / 0", "skip-execution"), code("print('ran')")], {}),
    "an interrupt": (
        [
            code("import time"),
            code("try:\n    time.sleep(30)\nfinally:\n    print('swept')"),
            code("print('next')"),
        ],
        {"execution_timeout": 3, "interrupt_on_timeout": True, "allow_errors": True},
    ),
    "displays": (
        [
            code("from IPython.display import *\nh = display(HTML('1'), display_id='d', metadata={'a': 1})"),
            code("display('again', display_id='d')\nh.update(HTML('2'))"),
            code("for i in range(3):\n    clear_output(wait=True)\n    print(i)"),
            code("print('gone')\nclear_output()"),
            code("display({'application/x+json': {'a': 1}, 'text/plain': 'b'}, raw=True)\n'result';"),
        ],
        {},
    ),
    "comms and widgets": (
        [
            code(
                "import ipywidgets\nbox = ipywidgets.HBox([ipywidgets.Text('☃'), ipywidgets.Button()])\nbox"
            ),
            code("box.children[0].value = 'later'\nbox.close()"),
            code(
                "from comm import create_comm\nc = create_comm('nobody', data={})\nc.send({'a': 1}, buffers=[b'x'])"
            ),
            code("c.send([1, 2])\nc.send('text')\nprint('sent')"),
        ],
        {},
    ),
    "async": (
        [
            code(
                "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 'awaited'\nawait f()"
            ),
            code("task = asyncio.ensure_future(f())"),
            code("await task"),
            code("async for _ in f():\n    pass", "raises-exception"),
        ],
        {"allow_errors": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_comes_out_as_from_papermills_own_engine(tmp_path: Path, name: str):
    cells, options = CASES[name]
    source = tmp_path / "in.ipynb"
    nbformat.write(nbformat.v4.new_notebook(metadata={**PYTHON, "mine": {"a": 1}}, cells=cells), source)
    found = []
    for engine in (None, "nbcloud"):
        output = tmp_path / f"{engine}.ipynb"
        told = run(source, output, engine, options)
        found.append({"raised": told, **seen(nbformat.read(output, 4))})
    close_links()
    assert differences(*found) == []

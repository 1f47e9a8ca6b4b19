"""%%cloud --local: the cell runs here, with the record of any other."""

import sys

import pytest
from IPython.utils.capture import capture_output

from nbcloud.dispatch.notebook import Notebook
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import open_store
from nbcloud.jupyter.here import LocalRun
from nbcloud.jupyter.output import CellError


@pytest.fixture
def notebook(shell):
    opened = Notebook(shell.user_ns, shell)
    yield opened
    opened.close()


def run(notebook, code):
    with capture_output() as captured:
        LocalRun(notebook.shell, notebook).run(code, CellOptions(name="n"), "cell")
    notebook.recorder.flush()
    return captured


def record():
    with open_store() as store:
        (found,) = store.search(name="n")
        return found, store.outputs(found.id)


def test_both_streams_and_the_names_stay(notebook):
    captured = run(notebook, "import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 1")
    assert (captured.stdout, captured.stderr) == ("out\n", "err\n")
    found, outputs = record()
    assert found.state == "done"
    assert [(o["name"], o["text"]) for o in outputs] == [("stdout", "out\n"), ("stderr", "err\n")]
    assert notebook.namespace["x"] == 1


def test_an_error_is_raised_and_on_record(notebook):
    with pytest.raises(CellError) as caught:
        run(notebook, "print('before')\n{}['key']")
    assert type(caught.value).__name__ == "KeyError"
    notebook.recorder.flush()
    found, outputs = record()
    assert found.state == "failed"
    assert outputs[-1]["ename"] == "KeyError"


def test_a_syntax_error(notebook):
    with pytest.raises(CellError) as caught:
        run(notebook, "1 +")
    assert type(caught.value).__name__ == "SyntaxError"
    notebook.recorder.flush()
    assert record()[0].state == "failed"


def test_streams_and_hooks_are_as_before(notebook):
    streams, show = (sys.stdout, sys.stderr), notebook.shell._showtraceback
    with pytest.raises(CellError):
        run(notebook, "1/0")
    assert (sys.stdout, sys.stderr) == streams
    assert notebook.shell._showtraceback == show

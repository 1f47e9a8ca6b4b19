"""analyze() against a real IPython: what changes when a name is missing has been read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from nbcloud.cells.analysis import analyze

CELLS = [
    "r = f(x)\nr",
    "r = await g(x)",
    "%time r = f(x)",
    "%%time\nr = f(x)\ny",
    "%%time\n\nundefined",
    "r = %timeit -n1 -r1 -q -o f(x)\nr = r.loops",
    "%%timeit -n1 -r1 -q q = f(x)\nf(q + y)",
    "%timeit -n1 -r1 -qv r f(x)\nr = None",
    "%%capture out\nr = f(x)\nprint(y)",
    "%%capture out\n%%time\nr = f(x)",
    "%prun -q r = f(x)",
    "%%prun -q\nr = f(x)\nq = y",
    "r = !echo {x} $y ${word} '$hidden' {f(x)} $$x",
    "r = !echo {x + y} {word[0:2]} {word!r}",
    "r = !echo {x} }",
    "r = !echo {missing} {x}",
    "r = !echo $word.real $word",
    "r = %sx echo {word}",
    "%%sx\necho {word}",
    "%env NBCLOUD_TEST={word}-$x\nimport os\nr = os.environ.pop('NBCLOUD_TEST')",
    "%%bash --out o\necho $word",
    "%%bash --out o -s {word}\necho $1",
    "%%script --out o --err e echo $x\nx",
    "x?",
    "%pinfo word.upper",
    "%precision 3\nr = x",
    "r = get_ipython().user_ns['x']",
    "r = '{x} {word}'.format(**globals())",
    "r = eval('x + y')",
    "exec('r = x')\ny",
    "def h():\n    global r\n    r = f(x)\nh()",
    "def h():\n    return %time f(x)\nr = h()",
    "def h(y):\n    r = !echo {x} {y}\n    return r\nr = h(word)",
    "class A:\n    x = x\n    def m(self, z=y):\n        return f(z)\nr = A().m()",
    "match x:\n    case int(n) if n > y:\n        r = n\n    case other:\n        r = word",
    "r = [y for y in range(x) if y]",
    "import x\nr = x",
    "for word in word:\n    r = word\ndel word",
    "with open(word) as r:\n    pass",
    "time r = f(x)",
    "r: y = x",
    "def h(a: word = x): ...",
    "r = f'{x:{y}} {word!r:>{x}}'",
    "r = f(x)\nreturn y",
    "\n\n    r = x\n    %time y",
    ">>> r = x\n... y",
]
NAMES = {
    "f": lambda value: value,
    "x": 3,
    "y": 2,
    "word": "word",
    "hidden": "hidden",
}


async def identity(value: Any) -> Any:
    return value


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config, colors="nocolor")
    yield shell
    shell.restore_sys_module_state()  # it has put itself in the place of __main__


def outcome(shell: InteractiveShell, cell: str, without: str = "") -> tuple[str, dict[str, str]]:
    """The error of a cell, and what the names that it has bound stand for."""
    for name in [name for name in shell.user_ns if name not in shell.user_ns_hidden]:
        del shell.user_ns[name]
    shell.user_ns.update({name: value for name, value in NAMES.items() if name != without}, g=identity)
    before = dict(shell.user_ns)
    with capture_output():
        result = shell.run_cell(cell)
    error = result.error_before_exec or result.error_in_exec
    after = {
        name: value for name, value in shell.user_ns.items() if name not in {"In", "Out"} and name[0] != "_"
    }
    bound = {name: value for name, value in after.items() if before.get(name) is not value}
    gone = {name: "gone" for name in before if name not in shell.user_ns}
    return repr(error), {name: "" if callable(value) else repr(value) for name, value in bound.items()} | gone


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_missing_name_changes(
    shell: InteractiveShell, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = analyze(cell)
    _, bound = whole = outcome(shell, cell)
    assert names.star or set(bound) <= names.binds | names.deletes
    required = {entry.name for entry in names.required}
    for name in NAMES:
        partial = outcome(shell, cell, without=name)
        assert partial == whole or name in names.reads
        assert partial[0] != "None" or name not in required

from __future__ import annotations

import builtins
import dis
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbcloud.cells.analysis import function_binds, function_reads
from nbcloud.cells.bytecode import name_operations, nested_codes

SOURCE = """
def f(a):
    import os
    class Local:
        x = top
        def method(self):
            return [inner(y, a) for y in items.values]
    global counter
    counter = attribute.top.counter
    return lambda: os.path
"""


def function(source: str) -> types.CodeType:
    space: dict[str, Any] = {}
    exec(source, space)
    code: types.CodeType = space["f"].__code__
    return code


def test_what_a_function_reads_and_binds() -> None:
    code = function(SOURCE)
    assert function_reads(code) - set(dir(builtins)) == {"top", "inner", "items", "attribute"}
    assert function_binds(code) == {"counter"}


def test_a_function_that_deletes_a_global_may_unbind_it() -> None:
    assert function_binds(function("def f():\n    global x\n    del x")) == {"x"}


def test_what_a_function_reads_by_way_of_the_shell() -> None:
    code = function("def f():\n    get_ipython().system('ls {folder}')")
    assert function_reads(code) == {"ls", "folder"}


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for inner in nested_codes(code):
        yield from all_codes(inner)


@pytest.mark.parametrize("name", ["argparse", "asyncio.base_events", "dataclasses", "inspect", "tarfile"])
def test_bytecode_is_read_as_dis_reads_it(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    for code in all_codes(compile(Path(file).read_bytes(), name, "exec")):
        instructions = [(each.opcode, each.argval) for each in dis.get_instructions(code)]
        operations = list(name_operations(code))
        assert [each for each in instructions if each in set(operations)] == operations
        loads = [
            each for each in instructions if dis.opname[each[0]] in {"LOAD_GLOBAL", "LOAD_NAME", "STORE_NAME"}
        ]
        assert set(loads) <= set(operations)

"""The text of a cell as Python, with positions in the cell that the user sees."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType

from nbcloud.cells.bytecode import CodeNames, code_names, module_names, nested_codes

# What compile() raises for text that is not a program.
NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)

# "In [1]: x" parses as an annotation, but IPython strips pasted prompts.
_PROMPT = re.compile(r"^\s*(?:\[(?:nav|ins)\] )?In \[\d+\]: ", re.MULTILINE)
_NEWLINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class ParsedCell:
    """A cell as a syntax tree and as compiled code.

    Attributes
    ----------
    tree : ast.Module
        The cell with its magics replaced by the calls that IPython makes of them.
    names : CodeNames
        All global names in it.
    functions : dict
        Names in each function and lambda, by code name and first line in ``tree``.
    lines : sequence of int
        Line in the cell for each line of ``tree``.
    """

    tree: ast.Module
    names: CodeNames
    functions: dict[tuple[str, int], CodeNames]
    lines: Sequence[int]


def parse(source: str, first_line: int = 1) -> ParsedCell:
    """Parse the text of a cell, or the Python in a magic of it.

    Parameters
    ----------
    source : str
        Text as typed.
    first_line : int
        Number of its first line in the cell.

    Raises
    ------
    SyntaxError, ValueError, RecursionError, MemoryError, OverflowError
        The text is not Python, even after IPython's transformations.
    """
    tree, lines = _parse_as_typed(source, first_line)
    tree, codes = _compile_as_run(tree)
    functions: dict[tuple[str, int], CodeNames] = {}
    for code in codes:
        _index_functions(code, functions)
    return ParsedCell(tree, CodeNames().union(*map(module_names, codes)), functions, lines)


def find_name(source_lines: Sequence[str], name: str, line: int, column: int) -> tuple[int, int, int]:
    """Find the line, and the first and last column in characters, of a name that the user has typed.

    Parameters
    ----------
    source_lines : sequence of str
        Lines of the cell.
    name : str
        The name.
    line : int
        Its line in the cell, from 1; of a magic that goes on over more lines, the first.
    column : int
        Its offset in UTF-8 bytes, in a line from which IPython may have stripped indentation or a prompt.
    """
    text = source_lines[line - 1] if line <= len(source_lines) else ""
    start = len(text.encode()[:column].decode(errors="ignore"))
    if not text.startswith(name, start):
        found = re.search(rf"(?<![\w%.]){re.escape(name)}\b", text)
        if found is None and text.endswith("\\"):
            return find_name(source_lines, name, line + 1, 0)
        start = found.start() if found else 0
    return line, start, start + len(name)


def split_lines(source: str) -> list[str]:
    """Split text into lines as Python's tokenizer counts them (a form feed ends none)."""
    return _NEWLINE.split(source)


def _parse_as_typed(source: str, first_line: int) -> tuple[ast.Module, Sequence[int]]:
    # IPython's tokenizing costs thrice the parsing, and changes nothing in text that is Python already.
    if not _PROMPT.search(source):
        try:
            return ast.parse(source), range(first_line, first_line + len(source) + 1)
        except NOT_PYTHON:
            pass
    text, lines = _to_python(source)
    return ast.parse(text), [first_line + line for line in lines]


def _to_python(source: str) -> tuple[str, list[int]]:
    """Transform a cell as IPython does, and say from which line (from 0) each line of the result comes."""
    from IPython.core.inputtransformer2 import TRANSFORM_LOOP_LIMIT, TransformerManager

    manager = TransformerManager()
    lines = (source if source.endswith("\n") else source + "\n").splitlines(keepends=True)
    origin = list(range(len(lines)))
    for cleanup in manager.cleanup_transforms:  # they drop lines at the beginning only
        lines = cleanup(lines)
        origin = origin[len(origin) - len(lines) :]
    for transform in manager.line_transforms:  # a cell magic swallows all that follows
        lines = transform(lines)
        origin = origin[: len(lines)]
    for _ in range(TRANSFORM_LOOP_LIMIT):
        changed, after = manager.do_one_token_transform(lines)
        if not changed:
            break
        # One line has taken the place of one or more.
        same = next((i for i, (old, new) in enumerate(zip(lines, after, strict=False)) if old != new), 0)
        origin = origin[: same + 1] + origin[same + 1 + len(lines) - len(after) :]
        lines = after
    return "".join(lines), origin


def _compile_as_run(tree: ast.Module) -> tuple[ast.Module, tuple[CodeType, ...]]:
    try:
        return tree, (_compile(tree),)
    except NOT_PYTHON as error:
        # IPython compiles and runs statement by statement: those before a misplaced ``return`` do run,
        # and a future import may stand anywhere.
        codes: list[CodeType] = []
        for statement in tree.body:
            try:
                codes.append(_compile(ast.Module([statement], [])))
            except NOT_PYTHON:
                break
        if not codes:
            raise error
        return ast.Module(tree.body[: len(codes)], []), tuple(codes)


def _compile(tree: ast.Module) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(tree, "<cell>", "exec", flags, dont_inherit=True, optimize=0)
    return code


def _index_functions(code: CodeType, index: dict[tuple[str, int], CodeNames]) -> None:
    for inner in nested_codes(code):
        key = inner.co_name, inner.co_firstlineno
        names = code_names(inner)
        # Two lambdas in one line share a key: each then reads what either reads.
        index[key] = names.union(index[key]) if key in index else names
        _index_functions(inner, index)

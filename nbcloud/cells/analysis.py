"""What a cell reads before it writes it, and what it writes."""

from __future__ import annotations

import types
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache

from nbcloud.cells.bytecode import code_names
from nbcloud.cells.magics import AUTOMAGIC
from nbcloud.cells.source import NOT_PYTHON, ParsedCell, find_name, parse, split_lines
from nbcloud.cells.visitor import CellVisitor


@dataclass(frozen=True)
class Required:
    """A name that a cell certainly evaluates, and where: line from 1, columns from 0 in characters."""

    name: str
    lineno: int
    col_offset: int
    end_col_offset: int


@dataclass(frozen=True)
class CellNames:
    """Names that a cell takes from the notebook's namespace and leaves in it.

    Attributes
    ----------
    reads : frozenset of str
        Names that it may read before it has bound them itself, builtins included. Over-approximated.
    binds : frozenset of str
        Names that it may bind at top level (those of ``except … as`` too, although they are deleted again).
    deletes : frozenset of str
        Names in a ``del`` statement at top level.
    required : tuple of Required
        Names that are certainly evaluated before anything could have bound them, builtins included, in the
        order of their evaluation and each where it occurs first. Unless the cell stops before with an
        error, or calls a function of the notebook that binds them (see :func:`function_binds`), it fails
        where the namespace lacks one.
    imports : frozenset of str
        Absolute names that it imports: for ``from a.b import c`` both ``a.b`` and ``a.b.c``.
    star : bool
        It may bind names that can't be seen in its text: a star import, ``exec``, ``%run``, an unknown magic.
    secrets : frozenset of str
        Constant names of the secrets that it asks for.
    """

    reads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    deletes: frozenset[str] = frozenset()
    required: tuple[Required, ...] = ()
    imports: frozenset[str] = frozenset()
    star: bool = False
    secrets: frozenset[str] = frozenset()


@lru_cache(maxsize=512)
def analyze(source: str) -> CellNames:
    """Find the names that a cell reads and binds.

    Parameters
    ----------
    source : str
        The cell as typed, with magics, shell lines, help requests and top-level ``await``.

    Returns
    -------
    CellNames
        Empty but for ``star`` where the cell does not parse: the kernel that runs it says what is wrong.
    """
    with warnings.catch_warnings():
        # The kernel that runs the cell gives the user these warnings.
        warnings.simplefilter("ignore")
        automagic = _may_be_automagic(source)
        try:
            cell = parse(source)
        except NOT_PYTHON:
            if not automagic:
                return CellNames(star=True)
            return replace(analyze("%" + source.lstrip()), required=())
        return _names(source, cell, automagic)


def function_reads(code: types.CodeType) -> frozenset[str]:
    """Global names that a function's code, and all code nested in it, may read (builtins included)."""
    return code_names(code).reads


def function_binds(code: types.CodeType) -> frozenset[str]:
    """Global names that a function's code, and all code nested in it, may bind or delete."""
    names = code_names(code)
    return names.binds | names.deletes


def _names(source: str, cell: ParsedCell, automagic: bool) -> CellNames:
    visitor = CellVisitor()
    if automagic:
        visitor.doubt()
    try:
        visitor.visit_cell(cell)
    except RecursionError:  # an expression of a thousand terms
        every = cell.names
        return CellNames(every.reads, every.binds, every.deletes, imports=every.imports, star=True)
    return CellNames(
        reads=frozenset(visitor.reads),
        binds=frozenset(visitor.binds),
        deletes=frozenset(visitor.deletes),
        required=_required(source, visitor),
        imports=frozenset(visitor.imports),
        star=visitor.unseen,
        secrets=frozenset(visitor.secrets),
    )


def _required(source: str, visitor: CellVisitor) -> tuple[Required, ...]:
    lines = split_lines(source)
    return tuple(
        Required(name, *find_name(lines, name, line, column))
        for name, (line, column) in visitor.required.items()
    )


def _may_be_automagic(source: str) -> bool:
    """Tell whether IPython may take the cell for a magic without its ``%``: only in a cell of one line."""
    text = source.strip()
    return "\n" not in text and text.partition(" ")[0] in AUTOMAGIC

"""Global names in compiled code.

The compiler has already settled what a name means in a function (closures, class bodies, type
parameters, comprehensions), so its bytecode is asked instead of settling it a second time.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import lru_cache
from types import CodeType
from typing import NamedTuple

_LOADS = frozenset(
    code
    for name, code in dis.opmap.items()
    if name in {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
)
_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
_DELETE_GLOBAL = dis.opmap["DELETE_GLOBAL"]
_STORE_NAME = dis.opmap["STORE_NAME"]
_DELETE_NAME = dis.opmap["DELETE_NAME"]
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_IMPORT_FROM = dis.opmap["IMPORT_FROM"]
_NAME_OPERATIONS = _LOADS | {
    _STORE_GLOBAL,
    _DELETE_GLOBAL,
    _STORE_NAME,
    _DELETE_NAME,
    _IMPORT_NAME,
    _IMPORT_FROM,
}

# Functions that look names up by their text: every identifier in a string may be such a name.
_BY_TEXT = frozenset({"globals", "locals", "vars", "eval", "exec", "get_ipython"})
_IDENTIFIER = re.compile(r"(?<![\w.])[^\W\d]\w*")
# Methods that read variables of their caller: ``@name`` in pandas, tables in DuckDB.
_BY_EXPRESSION = frozenset({"query", "eval"})
_IN_EXPRESSION = re.compile(r"@([^\W\d]\w*)")
_BY_SQL = frozenset({"sql", "query", "execute"})
_IN_SQL = re.compile(r"\b(?:from|join|into|update)\s+([^\W\d]\w*)", re.IGNORECASE)
# The calls in a formula of statsmodels or patsy ("y ~ np.log(x)") are looked up in the caller.
_FORMULA = re.compile(r"\w\s*~")
_CALLED_IN_FORMULA = re.compile(r"(?<![\w.])([^\W\d]\w*)\s*(?=[.(])")


class CodeNames(NamedTuple):
    """Global names that a code object, and those nested in it, may touch.

    ``attributes`` are all names that occur in any role; they tell cheaply that something is absent.
    """

    reads: frozenset[str] = frozenset()
    binds: frozenset[str] = frozenset()
    deletes: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()

    def union(self, *others: CodeNames) -> CodeNames:
        """Names of several code objects."""
        return CodeNames(*map(frozenset.union, self, *others)) if others else self


def nested_codes(code: CodeType) -> Iterator[CodeType]:
    """Code objects that stand directly in another one: its functions, classes, lambdas."""
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


@lru_cache(maxsize=4096)
def code_names(code: CodeType) -> CodeNames:
    """Global names of a function's code and of all code nested in it."""
    own = _own_names(code, frozenset({_STORE_GLOBAL}), frozenset({_DELETE_GLOBAL}))
    return own.union(*map(code_names, nested_codes(code)))


def module_names(code: CodeType) -> CodeNames:
    """Global names of top-level code, with all that is nested in it, in whatever order they are used."""
    own = _own_names(code, frozenset({_STORE_GLOBAL, _STORE_NAME}), frozenset({_DELETE_GLOBAL, _DELETE_NAME}))
    return own.union(*map(code_names, nested_codes(code)))


def names_in_string(text: str, reads: AbstractSet[str], attributes: AbstractSet[str]) -> set[str]:
    """Names that a string constant may make the code around it read.

    Parameters
    ----------
    text : str
        The string constant.
    reads, attributes : set of str
        Names that the code around it reads, and all names that occur there: they say what the string
        may be for.
    """
    if reads & _BY_TEXT:
        return set(_IDENTIFIER.findall(text))
    names: set[str] = set()
    if attributes & _BY_EXPRESSION:
        names.update(_IN_EXPRESSION.findall(text))
    if attributes & _BY_SQL:
        names.update(_IN_SQL.findall(text))
    if "~" in text and _FORMULA.search(text):
        names.update(_CALLED_IN_FORMULA.findall(text))
    return names


def _own_names(code: CodeType, stores: frozenset[int], deletes: frozenset[int]) -> CodeNames:
    reads: set[str] = set()
    binds: set[str] = set()
    deleted: set[str] = set()
    imports: set[str] = set()
    module = ""
    for operation, name in name_operations(code):
        if operation in _LOADS:
            reads.add(name)
        elif operation in stores:
            binds.add(name)
        elif operation in deletes:
            deleted.add(name)
        elif operation == _IMPORT_NAME:
            module = name
            imports.add(name)
        elif operation == _IMPORT_FROM:
            imports.add(f"{module}.{name}")
    attributes = frozenset(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, str):
            reads |= names_in_string(constant, reads, attributes)
    return CodeNames(
        # Each kernel has its own get_ipython.
        frozenset(reads - {"get_ipython"}),
        frozenset(binds),
        frozenset(deleted),
        frozenset(imports - {""}),
        attributes,
    )


def name_operations(code: CodeType) -> Iterator[tuple[int, str]]:
    """Operation code and name of each instruction that has to do with a name of the namespace."""
    # dis.get_instructions() says the same, sixteen times slower; a test compares the two.
    names = code.co_names
    if not names:
        return
    raw = code.co_code
    extended = 0
    for operation, argument in zip(raw[::2], raw[1::2], strict=True):
        if operation == dis.EXTENDED_ARG:
            extended = (extended | argument) << 8
            continue
        if operation in _NAME_OPERATIONS:
            index = extended | argument
            # The lowest bit of LOAD_GLOBAL says whether a NULL is pushed for a call.
            yield operation, names[index >> 1 if operation == _LOAD_GLOBAL else index]
        extended = 0

"""Parameters of a notebook: read as text, checked against its cell that is tagged ``parameters``."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from nbcloud.errors import UsageError
from nbcloud.workflows.distributions import Distribution, Domain, distribution, plain

_NONE = object()
_CONSTANTS = {
    "true": True,
    "false": False,
    "none": None,
    "null": None,
    "inf": float("inf"),
    "-inf": float("-inf"),
    "nan": float("nan"),
}
_RANGE = re.compile(r"(-?[\d.e+-]+):(-?[\d.e+-]+)(?::(-?[\d.e+-]+))?")
_CALL = re.compile(r"(log)?(uniform|randint)\(")
_MOST = 100_000
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", list: "a list", dict: "a dict"}


def declared(notebook: str) -> dict[str, Any]:
    """The parameters of a notebook and their defaults; what is not a literal is ``...``.

    Raises
    ------
    UsageError
        When there is no such notebook, or it can't be read.
    """
    from papermill.iorw import load_notebook_node

    try:
        with warnings.catch_warnings():  # of papermill, about a name that does not end in .ipynb
            warnings.simplefilter("ignore", UserWarning)
            loaded = load_notebook_node(notebook)
    except FileNotFoundError:
        raise UsageError(f"There is no notebook {notebook}.") from None
    except Exception as error:
        raise UsageError(f"{notebook} can't be read as a notebook: {error}.") from error
    return declared_in(loaded)


def declared_in(notebook: Any) -> dict[str, Any]:
    """The same, of a notebook that is read."""
    tagged = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    first = next(tagged, None)
    return {} if first is None else _assigned(first.source)


def _assigned(code: str) -> dict[str, Any]:
    """Names that a cell assigns at top level, and their values as far as they are literals."""
    found: dict[str, Any] = {}
    for statement in _statements(code):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and statement.value is not None:
                found[target.id] = _literal(ast.unparse(statement.value), ...)
    return found


def _statements(code: str) -> list[ast.Assign | ast.AnnAssign]:
    try:
        tree = ast.parse(TransformerManager().transform_cell(code))
    except SyntaxError as error:
        raise UsageError(f"The cell of the notebook's parameters is no Python: {error}.") from None
    return [each for each in tree.body if isinstance(each, ast.Assign | ast.AnnAssign)]


def typed(known: Mapping[str, Any], name: str, text: str, *, loose: bool = False) -> Any:
    """The value that a text means for a parameter.

    Parameters
    ----------
    known : mapping
        The notebook's parameters, as `declared` gives them.
    name, text : str
    loose : bool
        Take names and types that the notebook does not have.

    Raises
    ------
    UsageError
        For an unknown name, or a text that is not of the default's type.
    """
    if name not in known and not loose:
        raise _unknown(known, name)
    default = known.get(name, ...)
    value = plain(_unquoted(text) if isinstance(default, str) else _literal(text, text))
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if not loose and not _fits(default, value):
        raise _misfit(name, text, default)
    return value


def check(known: Mapping[str, Any], values: Mapping[str, Any], *, loose: bool = False) -> None:
    """Refuse values, given as they are, whose name or type the notebook does not have."""
    for name, value in values.items():
        if loose:
            return
        if name not in known:
            raise _unknown(known, name)
        if not _fits(known[name], value):
            raise _misfit(name, repr(value), known[name])


def check_domain(known: Mapping[str, Any], name: str, values: Domain, *, loose: bool = False) -> None:
    """Refuse what a parameter may be, where its name or type is none of the notebook's."""
    if not isinstance(values, Distribution):
        if not values:
            raise UsageError(f"{name} has no value.", "Give at least one, or leave it out.")
        for value in values:
            check(known, {name: value}, loose=loose)
        _refuse_twice(name, values)
    elif not loose and name not in known:
        raise _unknown(known, name)
    elif not loose and not _fits(known[name], int(values.low) if values.whole else 0.5):
        raise _misfit(name, str(values), known[name])


def _fits(default: Any, value: Any) -> bool:
    """Whether a value is of the default's type; a whole number is a number, True is none."""
    if default is None or default is ...:
        return True
    if isinstance(default, float) and type(value) is int:
        return True
    if isinstance(default, tuple | set) and isinstance(value, list):  # as papermill can write it
        return True
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


def _unknown(known: Mapping[str, Any], name: str) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    there = f"There are: {', '.join(known)}." if known else "No cell of it is tagged 'parameters'."
    return UsageError(
        f"The notebook has no parameter {name!r}.", f"{hint}{there} To give it all the same: --loose"
    )


def _misfit(name: str, text: str, default: Any) -> UsageError:
    wanted = _WORDS.get(type(default), f"a {type(default).__name__}")
    return UsageError(
        f"{name}={text}: it must be {wanted}; its default is {default!r}.",
        "To give it all the same: --loose",
    )


def _literal(text: str, otherwise: Any) -> Any:
    found = _CONSTANTS.get(text.strip().lower(), _NONE)
    if found is not _NONE:
        return found
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return otherwise


def _unquoted(text: str) -> str:
    value = _literal(text, text)
    quoted = len(text) > 1 and text[0] in "\"'" and text[0] == text[-1]
    return value if quoted and isinstance(value, str) else text


def values_of(known: Mapping[str, Any], text: str, *, loose: bool = False) -> tuple[str, Domain]:
    """A name and the values that a grid has for it: ``lr=0.1,0.01``, ``seed=0:4``, ``rate=0:1:0.25``.

    Or what they are drawn from: ``lr=loguniform:1e-4:1e-1``.

    ``a:b`` goes from a to b without b, by steps of 1 or of the third number, as Python's ``range`` does.
    Where values hold commas themselves, write a list: ``sizes=[[1,2],[3]]``.
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise UsageError(f"{text!r} is no list of values.", "Write for example: -g lr=0.1,0.01 -g seed=0:4")
    if _CALL.match(rest):
        raise UsageError(f"{text!r} is no list of values.", f"Write: {name}=loguniform:1e-4:1e-1")
    if not isinstance(known.get(name), str) and (drawn := distribution(rest)) is not None:
        check_domain(known, name, drawn, loose=loose)
        return name, drawn
    if (found := _RANGE.fullmatch(rest)) is not None:
        numbers = [typed(known, name, each, loose=loose) for each in _steps(text, *found.groups())]
        if not numbers:
            raise UsageError(f"{text!r} has no value.", "Write for example: seed=0:4, or seed=4:0:-1")
        return name, numbers
    listed = _literal(rest, None) if rest.startswith("[") else None
    texts = [str(each) for each in listed] if isinstance(listed, list) else rest.split(",")
    values = [typed(known, name, each, loose=loose) for each in texts]
    _refuse_twice(name, values)
    return name, values


def _refuse_twice(name: str, values: Sequence[Any]) -> None:
    """Refuse a list in which a value stands twice: two members would be the same."""
    seen = set()
    for value in values:
        if repr(value) in seen:
            raise UsageError(f"{name} has the value {value!r} twice.", "Each combination is run once.")
        seen.add(repr(value))


def _steps(text: str, first: str, last: str, step: str | None) -> Iterator[str]:
    numbers = [_literal(each, None) for each in (first, last, step or "1")]
    start, end, by = numbers
    if not all(isinstance(each, int | float) for each in numbers) or not by:
        raise UsageError(f"{text!r} is no range.", "Write for example: seed=0:4, or rate=0:1:0.25")
    if (end - start) / by > _MOST:
        raise UsageError(
            f"{text!r} has more than {_MOST} values.", "Draw some: --random 20, of randint:A:B or uniform:A:B"
        )
    for place in itertools.count():
        value = start + place * by
        if (value >= end) if by > 0 else (value <= end):
            return
        yield repr(round(value, 12) if isinstance(value, float) else value)


def grid(domains: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every combination, the last name varying quickest.

    Raises
    ------
    UsageError
        When a parameter is drawn from a distribution, of which there is no end.
    """
    lists = []
    for name, values in domains.items():
        if isinstance(values, Distribution):
            raise UsageError(
                f"{name}={values} has no end of values.",
                "Say how many members are to be drawn: --random 20; or to be searched for: --trials 20",
            )
        lists.append(values)
    return [dict(zip(domains, each, strict=True)) for each in itertools.product(*lists)]

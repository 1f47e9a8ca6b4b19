"""Dataclasses from tables of a configuration file, with errors that name the place and the nearest word."""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nbcloud.config.quantities import number_text, parse_bytes, parse_seconds
from nbcloud.errors import ConfigError

T = TypeVar("T")

PARSE = "parse"
"""Key of a field's metadata: a function that makes its value of a text."""


def nearest(word: str, words: list[str]) -> str:
    """A hint: the nearest of ``words``, or all of them."""
    words = [each for each in words if each]  # a choice may be no text at all, which nobody would see
    near = difflib.get_close_matches(word, words, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(words))}."


@cache
def _described(kind: Any) -> list[tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    return [(field, hints[field.name]) for field in fields(kind) if field.init]


def types_of(kind: Any) -> dict[str, Any]:
    """The keys of a table that becomes a ``kind``, each with the type of its value."""
    return {field.name: hint for field, hint in _described(kind)}


def plain_hint(hint: Any) -> Any:
    """A type without its ``| None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(each for each in get_args(hint) if each is not type(None))
    return hint


def read_table(kind: type[T], table: Any, where: str) -> T:
    """Make a ``kind``, a dataclass, of a table.

    Parameters
    ----------
    kind : type
    table : mapping
    where : str
        Where the table stands, for errors: ``nbcloud.toml: profiles.gpu``.

    Raises
    ------
    ConfigError
        For an unknown key, naming the nearest that there is; for a missing one; for a value that can't be.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} must be a table, and is {table!r}.")
    described = _described(kind)  # type: ignore[arg-type]
    names = [field.name for field, _ in described]
    for key in table:
        if key not in names:
            raise ConfigError(f"{where} has an unknown key {key!r}.", nearest(str(key), names))
    values = {}
    for field, hint in described:
        if field.name in table:
            values[field.name] = _value(hint, field.metadata, table[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where} lacks {field.name!r}.")
    return kind(**values)


def _value(hint: Any, metadata: Mapping[str, Any], value: Any, where: str) -> Any:
    if PARSE in metadata:
        return _parsed(metadata[PARSE], value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if plain_hint(hint) is not hint:
        return _value(plain_hint(hint), metadata, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{where} can't be {value!r}.", nearest(str(value), [str(a) for a in arguments])
            )
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list, and is {value!r}.", f"Write [{value!r}].")
        return tuple(_value(arguments[0], {}, each, f"{where}[{n}]") for n, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, and is {value!r}.")
        if arguments[1] is str:
            value = {key: _as_text(each) for key, each in value.items()}
        return {str(key): _value(arguments[1], {}, each, f"{where}.{key}") for key, each in value.items()}
    if is_dataclass(hint):
        return read_table(hint, value, where)  # type: ignore[arg-type]
    return value if hint is Any else _plain(hint, value, where)


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _plain(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        said = str(value).lower() if isinstance(value, bool) else f"{value}"
        write = f'Write "{said}".' if hint is str and isinstance(value, bool | int | float) else ""
        raise ConfigError(f"{where} must be {_NAMES.get(hint, hint.__name__)}, and is {value!r}.", write)
    return value


def _as_text(value: Any) -> Any:
    """A number in a table of texts as one: ``OMP_NUM_THREADS = 4``."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _parsed(parse: Callable[[str], Any], value: Any, where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{where} can't be {value!r}.")
    try:
        return parse(value if isinstance(value, str) else number_text(value))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from None


SIZE = {PARSE: parse_bytes}
"""Metadata of a field in bytes."""
TIME = {PARSE: parse_seconds}
"""Metadata of a field in seconds."""

"""Values of profiles from the environment: ``NBCLOUD_PROFILES__GPU__WORKERS__MAXIMUM=8``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from nbcloud.config import files
from nbcloud.config.kinds import TYPES, KubernetesProfile
from nbcloud.config.tables import nearest, plain_hint, types_of
from nbcloud.errors import ConfigError


def override(name: str, table: dict[str, Any]) -> None:
    """Set in a profile's table what variables say of it.

    Raises
    ------
    ConfigError
        For a variable that says nothing that a profile could have.
    """
    for variable, text in files.overrides().items():
        of, *way = variable.split("__")[1:]
        if spelled(of) != spelled(name):
            continue
        if not all(way):
            way = []
        _set(variable, table, TYPES.get(str(table.get("kind")), KubernetesProfile), way, text)


def without_profile(names: Iterable[str]) -> list[tuple[str, ConfigError]]:
    """Variables about profiles that there are not: the profile's name as spelled there, and what to say."""
    names = list(names)
    known = {spelled(name) for name in names}
    found = []
    for variable in files.overrides():
        of = variable.split("__")[1]
        if spelled(of) not in known:
            hint = nearest(of.lower(), names) if names else "There is no profile."
            said = ConfigError(f"The environment variable {variable} names no profile.", hint)
            found.append((spelled(of), said))
    return found


def spelled(name: str) -> str:
    """A name as a variable has it."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _set(variable: str, place: dict[str, Any], kind: Any, way: list[str], text: str) -> None:
    if not way:
        raise ConfigError(
            f"The environment variable {variable} names no key of a profile.",
            "Write for example NBCLOUD_PROFILES__GPU__IMAGE.",
        )
    word, *rest = way
    inner: Any = None
    if is_dataclass(kind):
        keys = types_of(kind)
        key = next((each for each in (*keys, *place) if spelled(each) == spelled(word)), word.lower())
        inner = plain_hint(keys[key]) if key in keys else None
    elif get_origin(kind) is dict and is_dataclass(get_args(kind)[1]):
        key = next((each for each in place if spelled(each) == spelled(word)), word.lower())
        inner = get_args(kind)[1]
    elif get_origin(kind) is dict:
        # Of a free table, such as ``env``, the keys are the user's: as the variable has them, unless what
        # stands in the file has something in it that no variable can have. All words are one key: DASK_A__B.
        key, rest = "__".join(way), []
        odd = (each for each in place if not re.fullmatch(r"\w+", each) and spelled(each) == spelled(key))
        key = next(odd, key)
        inner = get_args(kind)[1]
    else:
        raise ConfigError(f"The environment variable {variable} goes through a value, at {word!r}.")
    if not rest:
        place[key] = _value(text, inner)
        return
    further = place.setdefault(key, {})
    if not isinstance(further, dict) or not (
        inner is None or is_dataclass(inner) or get_origin(inner) is dict
    ):
        raise ConfigError(f"The environment variable {variable} goes through {key!r}, which is a value.")
    _set(variable, further, inner, rest, text) if inner is not None else further.update(
        {rest[0].lower(): text}
    )


def _value(text: str, kind: Any) -> Any:
    """A value as it would stand in the file; what is none is a text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if kind is str and not isinstance(value, str) else value

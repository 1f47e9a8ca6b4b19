"""Settings: where files lie and where limits stand, from ``NBCLOUD_*`` variables.

``settings()`` looks at the environment at each call, so that a test or a notebook can change it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from nbcloud.errors import ConfigError

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"": 1, "MS": 1e-3, "S": 1, "SEC": 1, "M": 60, "MIN": 60, "H": 3600, "D": 86400}


def _split(text: str) -> tuple[float, str]:
    text = text.strip()
    unit = text.lstrip("0123456789.").strip()
    return float(text[: len(text) - len(unit)] if unit else text), unit.upper()


def parse_bytes(text: str) -> int:
    """Bytes from ``"16GiB"``, ``"500 MB"`` or ``"1024"``."""
    try:
        number, unit = _split(text)
        return int(number * _UNITS[unit])
    except (ValueError, KeyError):
        raise ConfigError(f"{text!r} is not a size.", "Write for example 512MiB or 16GB.") from None


def parse_seconds(text: str) -> float:
    """Seconds from ``"90"``, ``"30s"``, ``"5min"`` or ``"2h"``."""
    try:
        number, unit = _split(text)
        return number * _SECONDS[unit]
    except (ValueError, KeyError):
        raise ConfigError(
            f"{text!r} is not a length of time.", "Write for example 30s, 5min or 2h."
        ) from None


@dataclass(frozen=True)
class Settings:
    """What can be set, each by ``NBCLOUD_`` and the name in capitals."""

    data_dir: Path
    """Records of runs, kept."""
    runtime_dir: Path
    """Registry of live clusters, their certificates and journals; belongs to this user and machine."""
    cluster: str = "local"
    """The cluster that ``%%cloud`` takes when none is named."""
    idle_timeout: float = 3600.0
    """Seconds without a run, after which a local cluster stops by itself; 0 never."""
    home_limit: int = 2**20
    """Results that nobody asked for by ``-o`` come home by value up to this size, in bytes."""
    out_limit: int = 2**30
    """Results asked for by ``-o`` come home by value up to this size, in bytes."""
    shown_limit: int = 2**20
    """Stream text shown in one cell, in characters, with 20 more for each line; the record has all of it."""
    journal_memory: int = 2**26
    """Bytes of messages that the journal keeps in memory for each run; the rest is on disk."""


def _runtime_dir() -> Path:
    # XDG_RUNTIME_DIR is emptied at logout, and clusters outlive that: the state directory does not move.
    return Path(platformdirs.user_state_dir("nbcloud", appauthor=False)) / "run"


_PARSE: dict[str, Callable[[str], Any]] = {
    "data_dir": Path,
    "runtime_dir": Path,
    "cluster": str,
    "idle_timeout": parse_seconds,
    "home_limit": parse_bytes,
    "out_limit": parse_bytes,
    "shown_limit": parse_bytes,
    "journal_memory": parse_bytes,
}


_VARIABLES = {f"NBCLOUD_{field.name.upper()}": field.name for field in fields(Settings)}


def settings() -> Settings:
    """The settings in force now.

    Raises
    ------
    ConfigError
        For an ``NBCLOUD_*`` variable that doesn't exist, naming the nearest that does, or a bad value.
    """
    places = tuple(os.environ.get(variable) for variable in _PLACES)
    # A variable more or less is worth a look at the names of all, which takes a while.
    return _read(tuple(os.environ.get(variable) for variable in _VARIABLES), (*places, str(len(os.environ))))


_PLACES = ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "LOCALAPPDATA")
"""What platformdirs looks at."""


@lru_cache(maxsize=8)
def _read(texts: tuple[str | None, ...], _places: tuple[str | None, ...]) -> Settings:
    _refuse_unknown()
    values: dict[str, Any] = {
        "data_dir": Path(platformdirs.user_data_dir("nbcloud", appauthor=False)),
        "runtime_dir": _runtime_dir(),
    }
    for name, text in zip(_VARIABLES.values(), texts, strict=True):
        if text is not None:
            try:
                values[name] = _PARSE[name](text)
            except ConfigError as error:
                raise ConfigError(f"NBCLOUD_{name.upper()}: {error.message}", error.hint) from None
    return Settings(**values)


def _refuse_unknown() -> None:
    for variable in os.environ:
        if not variable.startswith("NBCLOUD_") or variable.startswith(("NBCLOUD_TEST_", "NBCLOUD_KERNEL_")):
            continue
        if variable not in _VARIABLES:
            near = difflib.get_close_matches(variable, _VARIABLES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(_VARIABLES))}."
            raise ConfigError(f"The environment variable {variable} is not a setting of nbcloud.", hint)


def private_dir(path: Path) -> Path:
    """Make ``path`` and its missing parents, for this user only (0700), and return it."""
    for missing in reversed([parent for parent in path.parents if not parent.exists()]):
        missing.mkdir(exist_ok=True, mode=0o700)
    path.mkdir(exist_ok=True, mode=0o700)
    if os.name == "posix":
        path.chmod(0o700)
    return path

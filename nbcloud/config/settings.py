"""Settings: where files lie and where limits stand, from ``NBCLOUD_*`` variables and ``nbcloud.toml``.

``settings()`` looks at the environment and the files at each call, so that a test or a notebook can change
them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from keyword import iskeyword
from pathlib import Path
from typing import Any

import platformdirs

from nbcloud.config import files
from nbcloud.config.quantities import number_text, parse_bytes, parse_seconds
from nbcloud.config.tables import nearest
from nbcloud.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What can be set: in ``nbcloud.toml``, and over it by ``NBCLOUD_`` and the name in capitals."""

    data_dir: Path
    """Records of runs, kept."""
    runtime_dir: Path
    """Registry of live clusters, their certificates and journals; belongs to this user and machine."""
    cluster: str = "local"
    """The cluster that ``%%cloud`` takes when none is named."""
    experiment: str = "Default"
    """The experiment of runs for which ``nbcloud.set_experiment`` names none."""
    registry: str = ""
    """Where models are kept: a folder, or an address that fsspec knows (``s3://bucket/models``); a folder
    beside the records when empty."""
    tracking: str = ""
    """Where runs are mirrored to: ``mlflow:`` and the address of an MLflow server, or a folder."""
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
    preload: tuple[str, ...] = ()
    """Modules that every kernel has imported when it starts, as ``["pandas", "matplotlib.pyplot"]``; in the
    variable with commas between them. Workers read it when their cluster starts."""


def _runtime_dir() -> Path:
    # XDG_RUNTIME_DIR is emptied at logout, and clusters outlive that: the state directory does not move.
    return Path(platformdirs.user_state_dir("nbcloud", appauthor=False)) / "run"


def _modules(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() and not iskeyword(part) for part in name.split(".")):
            raise ConfigError(
                f"{name!r} is no name of a module.", 'Write for example "pandas, matplotlib.pyplot".'
            )
    return tuple(dict.fromkeys(names))


def _experiment(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ConfigError(f"{text!r} is no name of an experiment.", 'Write for example "digits".')
    return text


def _tracking(text: str) -> str:
    scheme, _, where = text.partition(":")
    if text and (scheme != "mlflow" or not where):
        raise ConfigError(
            f"{text!r} is no place that runs can be mirrored to.", 'Write for example "mlflow:https://HOST".'
        )
    if where.startswith("//") or re.fullmatch(r"[\w.-]+:\d+(/.*)?", where):
        raise ConfigError(
            f"{text!r} does not say how its server is spoken to.",
            f'Write "mlflow:https://{where.lstrip("/")}", or http.',
        )
    if where and ":" not in where and where != "databricks" and not Path(where).is_absolute():
        raise ConfigError(
            f"{text!r} is a folder whose place depends on where it is read.",
            'Write all of its path: "mlflow:/home/…".',
        )
    return text


_PARSE: dict[str, Callable[[str], Any]] = {
    "data_dir": Path,
    "runtime_dir": Path,
    "cluster": str,
    "experiment": _experiment,
    "registry": str,
    "tracking": _tracking,
    "idle_timeout": parse_seconds,
    "home_limit": parse_bytes,
    "out_limit": parse_bytes,
    "shown_limit": parse_bytes,
    "journal_memory": parse_bytes,
    "preload": _modules,
}


_VARIABLES = {f"NBCLOUD_{field.name.upper()}": field.name for field in fields(Settings)}


def settings() -> Settings:
    """The settings in force now.

    Raises
    ------
    ConfigError
        For a variable or a key that doesn't exist, naming the nearest that does, or a bad value.
    """
    places = tuple(os.environ.get(variable) for variable in _PLACES)
    # A variable more or less is worth a look at the names of all, which takes a while.
    texts = tuple(os.environ.get(variable) for variable in _VARIABLES)
    return _read(texts, (*places, str(len(os.environ))), files.stamp())


_PLACES = ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "LOCALAPPDATA")
"""What platformdirs looks at."""


@lru_cache(maxsize=8)
def _read(
    texts: tuple[str | None, ...],
    _places: tuple[str | None, ...],
    stamps: tuple[tuple[str, int, int], ...],
) -> Settings:
    _refuse_unknown()
    values: dict[str, Any] = {
        "data_dir": Path(platformdirs.user_data_dir("nbcloud", appauthor=False)),
        "runtime_dir": _runtime_dir(),
    }
    for path, table in reversed(files.tables(stamps) if stamps else []):
        values |= _from_file(path, table)
    for (variable, name), text in zip(_VARIABLES.items(), texts, strict=True):
        if text is not None:
            values[name] = _parse(variable, name, text)
    return Settings(**values)


def _from_file(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    values = {}
    for key, value in table.items():
        if key == "profiles":
            continue
        if key not in _PARSE:
            raise ConfigError(f"{path} has an unknown key {key!r}.", nearest(key, [*_PARSE, "profiles"]))
        if key == "preload" and isinstance(value, list) and all(isinstance(name, str) for name in value):
            value = ",".join(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{path}: {key} can't be {value!r}.")
        text = value if isinstance(value, str) else number_text(value)
        parsed = _parse(f"{path}: {key}", key, text)
        # A path is meant from where the file lies, not from wherever it is read.
        values[key] = path.parent / parsed.expanduser() if isinstance(parsed, Path) else parsed
    return values


def _parse(where: str, name: str, text: str) -> Any:
    try:
        return _PARSE[name](text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", error.hint) from None


_OTHERS = ("NBCLOUD_TEST_", "NBCLOUD_KERNEL_", "NBCLOUD_PROFILES__")
"""Variables that are no settings, by their beginnings."""


def _refuse_unknown() -> None:
    for variable in os.environ:
        if (
            variable.startswith("NBCLOUD_")
            and not variable.startswith(_OTHERS)
            and variable not in _VARIABLES
        ):
            raise ConfigError(
                f"The environment variable {variable} is not a setting of nbcloud.",
                nearest(variable, list(_VARIABLES)),
            )

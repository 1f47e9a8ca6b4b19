"""``nbcloud.toml``: where it is looked for, and what it says."""

from __future__ import annotations

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from nbcloud.errors import ConfigError

NAME = "nbcloud.toml"


def places() -> list[Path]:
    """The files that count, the stronger first: the project's, then the user's.

    The project's is the nearest in the working directory and above it.
    """
    try:
        here = Path.cwd()
    except OSError:  # a working directory that was removed
        here = None
    found = []
    if here is not None:
        found += [folder / NAME for folder in (here, *here.parents) if (folder / NAME).is_file()][:1]
    user = Path(platformdirs.user_config_dir("nbcloud", appauthor=False)) / NAME
    if user.is_file() and user not in found:
        found.append(user)
    return found


def stamp() -> tuple[tuple[str, int, int], ...]:
    """What changes when a file of `places` does."""
    stamps = []
    for path in places():
        try:
            status = path.stat()
        except OSError:
            continue
        stamps.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def tables(stamps: tuple[tuple[str, int, int], ...] | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """The contents of the files that count, the stronger first.

    Raises
    ------
    ConfigError
        For a file that is not TOML, with the place in it.
    """
    return [(Path(path), _read(path, time, size)) for path, time, size in (stamps or stamp())]


@lru_cache(maxsize=8)
def _read(path: str, _time: int, _size: int) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from None


def overrides() -> dict[str, str]:
    """Variables such as ``NBCLOUD_PROFILES__GPU__IMAGE``, and their texts."""
    return {name: text for name, text in os.environ.items() if name.startswith("NBCLOUD_PROFILES__")}

"""``nbcloud.toml``: where it is looked for, and what it says."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import platformdirs

from nbcloud.errors import ConfigError

NAME = "nbcloud.toml"


Stamp = tuple[tuple[str, int, int], ...]
"""Path, time of the last change and size of each file that counts, the stronger first."""


def stamp() -> Stamp:
    """The files that count now: the project's, then the user's.

    The project's is the nearest in the working directory and above it. Looked at before nearly everything
    that nbcloud does, so that microseconds count.
    """
    user = _of_user(tuple(os.environ.get(variable) for variable in _PLACES))
    found: dict[str, tuple[str, int, int]] = {}
    for paths in (_of_project(), [user]):
        for path in paths:
            with contextlib.suppress(OSError):
                status = os.stat(path)  # noqa: PTH116 - a Path takes ten times as long
                if S_ISREG(status.st_mode):
                    found[path] = (path, status.st_mtime_ns, status.st_size)
                    break
    return tuple(found.values())


def _of_project() -> Iterator[str]:
    """Where the project's may be, the nearest first."""
    try:
        folder = os.getcwd()  # noqa: PTH109
    except OSError:  # a working directory that was removed
        return
    while True:
        yield os.path.join(folder, NAME)  # noqa: PTH118
        above = os.path.dirname(folder)  # noqa: PTH120
        if above == folder:
            return
        folder = above


@lru_cache(maxsize=8)
def _of_user(_variables: tuple[str | None, ...]) -> str:
    return str(Path(platformdirs.user_config_dir("nbcloud", appauthor=False)) / NAME)


_PLACES = ("HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA", "APPDATA", "USERPROFILE")
"""What platformdirs looks at."""


def tables(stamps: Stamp | None = None) -> list[tuple[Path, dict[str, Any]]]:
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

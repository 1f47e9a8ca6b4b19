"""Profiles: named sets of cluster settings in ``nbcloud.toml``.

::

    [profiles.gpu]
    kind = "kubernetes"
    namespace = "ml"
    image = "registry.example.com/team/nbcloud:1"

    [profiles.gpu.workers]
    gpus = 1
    memory = "32GiB"
    maximum = 4

    [profiles.gpu.groups.cpu]
    cpus = 8

A profile of the project's file hides one of the same name in the user's. One value may be overridden by an
environment variable that spells its path: ``NBCLOUD_PROFILES__GPU__WORKERS__MAXIMUM=8``.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from nbcloud.config import files, variables
from nbcloud.config.checks import check
from nbcloud.config.kinds import (
    TYPES,
    ExistingProfile,
    KubernetesProfile,
    LocalProfile,
    Profile,
    SchedulerPod,
    Toleration,
    Volume,
    WorkerGroup,
)
from nbcloud.config.tables import nearest, read_table
from nbcloud.errors import ConfigError

__all__ = [
    "KINDS",
    "ExistingProfile",
    "KubernetesProfile",
    "LocalProfile",
    "Profile",
    "SchedulerPod",
    "Toleration",
    "Volume",
    "WorkerGroup",
    "names",
    "profile",
    "profiles",
    "read_all",
    "readable",
]

KINDS = tuple(TYPES)


def profiles() -> dict[str, tuple[Profile, str]]:
    """All profiles by their names, each with the file that it is from.

    Raises
    ------
    ConfigError
        Names each mistake there is, with its file, the place in it, and the nearest word that would be right.
    """
    made, wrong = read_all()
    if wrong:
        raise ConfigError("\n".join([str(each) for each in wrong[:-1]] + [wrong[-1].message]), wrong[-1].hint)
    return made


def read_all() -> tuple[dict[str, tuple[Profile, str]], list[ConfigError]]:
    """The profiles in which nothing is wrong, as `profiles`; and every mistake in the others."""
    found, wrong = _found()
    made = {}
    for name, (table, origin) in found.items():
        try:
            made[name] = (_read(name, table, origin), origin)
        except ConfigError as error:
            wrong.append(error)
    return made, wrong + [error for _, error in variables.without_profile(found)]


def readable() -> dict[str, Profile]:
    """The profiles in which nothing is wrong."""
    return {name: made for name, (made, _) in read_all()[0].items()}


def names() -> list[str]:
    """The names of all profiles, good or not."""
    return list(_found()[0])


def profile(name: str) -> Profile | None:
    """The profile of that name, None without one; mistakes in others are not looked at.

    Raises
    ------
    ConfigError
        Names the file, the place in it, and the nearest word that would be right.
    """
    found, wrong = _found()
    if name in found:
        return _read(name, *found[name])
    if wrong:
        raise wrong[0]
    for spelled, error in variables.without_profile(found):
        if spelled == variables.spelled(name):
            raise error
    return None


def _found() -> tuple[dict[str, tuple[Any, str]], list[ConfigError]]:
    """What stands under ``profiles`` in the files, each with its file; and what is wrong with the files."""
    found: dict[str, tuple[Any, str]] = {}
    wrong = []
    for path, contents in files.tables():
        named = contents.get("profiles", {})
        if not isinstance(named, dict):
            wrong.append(_no_tables(path))
            continue
        for name, table in named.items():
            found.setdefault(name, (table, str(path)))
    return found, wrong


def _no_tables(path: Path) -> ConfigError:
    return ConfigError(f"{path}: profiles must be tables.", "Write [profiles.NAME].")


def _read(name: str, table: Any, origin: str) -> Profile:
    where = f"{origin}: profiles.{name}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table, and is {table!r}.", f"Write [profiles.{name}].")
    table = copy.deepcopy(table)
    variables.override(name, table)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in TYPES:
        said = "lacks 'kind'" if kind is None else f"has a kind {kind!r} that there is not"
        raise ConfigError(f"{where} {said}.", nearest(str(kind), list(KINDS)))
    made: Profile = read_table(TYPES[kind], table, where)
    check(made, where)
    return made

"""Secrets that cells use: asked for by name, sent with the cell, and masked in all that is kept."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable

from nbcloud.errors import UsageError

_known: dict[str, str] = {}


def secret(name: str) -> str:
    """The value of a secret: from the environment, or asked for once and kept in memory only.

    In a ``%%cloud`` cell it is the notebook's value, which travels with the cell. Wherever the value turns up
    in outputs, records and logs, ``***`` stands in its place.

    Raises
    ------
    UsageError
        When nobody knows it and nobody can be asked.
    """
    if name in _known:
        return _known[name]
    value = os.environ.get(name)
    if value is None:
        try:
            value = getpass.getpass(f"{name}: ")
        except Exception:  # noqa: BLE001 - each frontend refuses in its own way
            raise UsageError(
                f"The secret {name!r} is not known here.",
                f"Set the environment variable {name}, or call it in a local cell first: "
                f'nbcloud.secret("{name}")',
            ) from None
    give({name: value})
    return value


def give(values: dict[str, str]) -> None:
    """Make secrets known to this process."""
    _known.update(values)


def known(names: Iterable[str]) -> dict[str, str]:
    """Those of the named secrets that this process can tell without asking."""
    values = {name: _known.get(name) or os.environ.get(name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def all_known() -> dict[str, str]:
    """Every secret given to this process."""
    return dict(_known)

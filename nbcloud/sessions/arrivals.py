"""What cells left for the notebook, until code of the notebook itself may look at it.

A value is brought to life only then: that takes time (a figure: a quarter of a second, and the import of its
package), and runs code of the user's classes, which nobody asked for while all cells run on the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

_SMALL = 2**14
_STACK_GLOBAL = b"\x93"  # the pickle instruction that looks up a class or function

Waiting = tuple[dict[str, Any], Sequence[Any]]


class Arrivals:
    """Names of one session whose values are not in the notebook's namespace yet."""

    def __init__(self) -> None:
        self._here: dict[str, Waiting] = {}
        self._there: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._here

    def __bool__(self) -> bool:
        return bool(self._here or self._there)

    def wait_here(self, entry: dict[str, Any], buffers: Sequence[Any]) -> None:
        """Keep a value that has come as bytes."""
        waiting = entry, buffers
        self._here.update((name, waiting) for name in entry["names"])

    def wait_there(self, names: Iterable[str]) -> None:
        """Note names whose values are to be asked for when they are needed."""
        self._there.update(names)

    def discard(self, names: Iterable[str]) -> None:
        """What waited under these names is out of date."""
        for name in names:
            self._here.pop(name, None)
            self._there.discard(name)

    def take_here(self) -> Iterator[tuple[Waiting, list[str]]]:
        """Each value that waits here, with its names, for the last time."""
        here, self._here = self._here, {}
        groups: dict[int, tuple[Waiting, list[str]]] = {}
        for name, waiting in here.items():
            groups.setdefault(id(waiting), (waiting, []))[1].append(name)
        yield from groups.values()

    def take_there(self, wanted: AbstractSet[str] | None) -> list[str]:
        """Those of the ``wanted`` names (None: of all) that are to be asked for, for the last time."""
        found = self._there if wanted is None else self._there & wanted
        self._there = self._there - found
        return sorted(found)


def is_plain(entry: dict[str, Any], buffers: Sequence[Any]) -> bool:
    """Tell whether a value is small and made of numbers, texts and containers: revived in no time."""
    if "blob" in entry or entry["buffers"] or entry["nbytes"] > _SMALL:
        return False
    return _STACK_GLOBAL not in bytes(buffers[entry["data"]])

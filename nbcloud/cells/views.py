"""NumPy arrays that show parts of one memory, such as a row of a table: they do so again at the other end.

Pickled one by one, each would come to life with a memory of its own, and a change of one would no longer be
seen in the other.
"""

from __future__ import annotations

import sys
from typing import Any

AT_MOST = 2**20
"""Bytes of a memory up to which it is looked for: a small part of a large array shall travel alone."""


class Views:
    """Arrays that were met in pickling, by the memory that they show."""

    def __init__(self) -> None:
        self._numpy = sys.modules.get("numpy")
        self._alone: set[int] = set()
        self._met: dict[int, tuple[Any, dict[int, int]]] = {}

    def meet(self, obj: Any) -> Any:
        """Note an object; returns the array that owns its memory, if it is a view of another one."""
        if self._numpy is None:
            return None
        if type(obj) is not self._numpy.ndarray:
            if type(obj).__module__.partition(".")[0] == "pandas":
                self._leave_alone(obj)
            return None
        owner = self._owner(obj)
        if owner is None or id(obj) in self._alone:
            return None
        self._met.setdefault(id(owner), (owner, {}))[1][id(obj)] = obj.nbytes
        return owner

    def _owner(self, array: Any) -> Any:
        ndarray, owner = self._numpy.ndarray, array.base  # type: ignore[union-attr]
        if type(owner) is not ndarray:
            return None
        while type(owner.base) is ndarray:
            owner = owner.base
        plain = owner.flags.c_contiguous and not owner.dtype.hasobject and not array.dtype.hasobject
        return owner if plain and 0 < owner.nbytes <= AT_MOST else None

    def _leave_alone(self, obj: Any) -> None:
        """Arrays inside of pandas objects: copying on write keeps these apart although they share memory."""
        blocks = getattr(getattr(obj, "_mgr", None), "blocks", ())
        self._alone |= {id(block.values) for block in blocks} | {id(getattr(obj, "_data", None))}

    def owners(self) -> dict[int, Any]:
        """The arrays that own the memory of those met, by identity."""
        return {key: owner for key, (owner, _) in self._met.items()}

    def shared(self, met: set[int]) -> frozenset[int]:
        """Identities of the owners whose memory is shown twice, and half of it at least.

        Parameters
        ----------
        met : set of int
            Identities of all objects met.
        """
        found = set()
        for key, (owner, views) in self._met.items():
            if key in met or (len(views) > 1 and 2 * sum(views.values()) >= owner.nbytes):
                found.add(key)
        return frozenset(found)


def reduced(view: Any, owner: Any) -> tuple[Any, ...]:
    """How to make ``view`` again from its owner."""
    offset = view.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return _view, (owner, view.dtype, view.shape, view.strides, offset, view.flags.writeable)


def _view(
    owner: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, writeable: bool
) -> Any:
    view = type(owner)(shape, dtype, owner, offset, strides)
    view.flags.writeable = writeable
    return view

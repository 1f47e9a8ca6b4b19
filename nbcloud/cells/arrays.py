"""numpy's views: names that show the same memory here show the same memory on the other side."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

SHARED = 2**26
"""Bytes of memory up to which views stay views; those of more travel as copies of what they show."""


def owner_of(value: Any) -> Any:
    """The array whose memory ``value`` shows, itself perhaps.

    None for what is no plain array, and for memory that is large, has gaps or holds Python objects.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray:
        return None
    while type(value.base) is numpy.ndarray:
        value = value.base
    travels_whole = value.flags.forc and not value.dtype.hasobject
    return value if travels_whole and 0 < value.nbytes <= SHARED else None


def owners(values: Iterable[Any]) -> tuple[dict[int, Any], set[int]]:
    """The owners of arrays among ``values`` by identity, and identities of those that several show."""
    found: dict[int, Any] = {}
    shared: set[int] = set()
    for owner in map(owner_of, values):
        if owner is not None:
            if id(owner) in found:
                shared.add(id(owner))
            found[id(owner)] = owner
    return found, shared


def as_view(value: Any, owner: Any) -> tuple[Any, ...]:
    """How pickle makes an array again from its owner."""
    offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return view, (owner, value.shape, value.dtype, offset, value.strides, value.flags.writeable)


def view(
    owner: Any, shape: tuple[int, ...], dtype: Any, offset: int, strides: tuple[int, ...], writeable: bool
) -> Any:
    """A view of an array's memory."""
    import numpy

    # As bytes: the buffer of an array can't be had for every type.
    memory = owner.ravel(order="K").view(numpy.uint8)
    made = numpy.ndarray(shape, dtype, memory, offset, strides)
    if not writeable:
        made.flags.writeable = False
    return made

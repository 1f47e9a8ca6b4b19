"""numpy's views: names that show the same memory here show the same memory on the other side."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

SHARED = 2**26
"""Bytes of memory up to which views stay views; those of more travel as copies of what they show."""


def owner_of(value: Any) -> Any:
    """The array whose memory ``value`` shows, itself perhaps; None for what is no plain array, or large."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or value.dtype.hasobject:
        return None
    while type(value.base) is numpy.ndarray:
        value = value.base
    return value if value.nbytes <= SHARED else None


def owners(values: Iterable[Any]) -> dict[int, Any]:
    """The owners of arrays among ``values``, by identity."""
    found = (owner_of(value) for value in values)
    return {id(owner): owner for owner in found if owner is not None}


def shared(values: Iterable[Any]) -> set[int]:
    """Identities of the owners whose memory more than one of ``values`` shows."""
    seen: set[int] = set()
    twice: set[int] = set()
    for value in values:
        owner = owner_of(value)
        if owner is not None:
            (twice if id(owner) in seen else seen).add(id(owner))
    return twice


def as_view(value: Any) -> tuple[Any, ...]:
    """How to make an array again from its owner."""
    owner = owner_of(value)
    offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return view, (owner, value.shape, value.dtype, offset, value.strides)


def view(owner: Any, shape: tuple[int, ...], dtype: Any, offset: int, strides: tuple[int, ...]) -> Any:
    """A view of an array's memory."""
    import numpy

    return numpy.ndarray(shape, dtype, owner.data, offset, strides)

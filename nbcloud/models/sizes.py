"""Dimensions of a model's inputs whose size varies: which there are, and a sample at another size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nbcloud.models.signature import Feeds, Tensor


def names(inputs: Iterable[Tensor]) -> list[str]:
    """Of all dimensions that vary."""
    return list(dict.fromkeys(size for each in inputs for size in each.shape if isinstance(size, str)))


def size_of(inputs: Sequence[Tensor], feeds: Mapping[str, Any], name: str) -> int:
    """How large a dimension is in the sample."""
    return int(
        next(np.shape(feeds[each.name])[each.shape.index(name)] for each in inputs if name in each.shape)
    )


def resized(inputs: Sequence[Tensor], feeds: Mapping[str, Any], name: str, size: int) -> Feeds:
    """The sample with another size of one dimension: what is there is repeated, from the second on.

    So no place keeps what it had; and in its order, since a mask turned round may leave nothing to attend to.
    """
    made = {}
    for each in inputs:
        value = feeds[each.name]
        for axis, called in enumerate(each.shape):
            if called == name and np.shape(value)[axis]:
                value = np.take(value, (np.arange(size) + 1) % np.shape(value)[axis], axis=axis)
        made[each.name] = value
    return made

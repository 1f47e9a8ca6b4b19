"""Two answers to the same input: how far apart, and whether that is too far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
"""Largest difference by type, relative to the largest magnitude in the output's column: rounding grows with
the numbers that were added up, not with their sum."""
_LEAST = 0.03
"""Of the largest magnitude in the whole output: columns smaller than that are measured against it."""
_ROWS = 8
"""Rows from which on a column tells how large its numbers are; with fewer, the whole output does."""


@dataclass(frozen=True)
class Difference:
    """Where two answers differ most.

    Parameters
    ----------
    output : str
    amount : float
        In units of the tolerance: above 1 is too much. Infinite where the kinds of answers differ.
    text : str
        ``"row 3: 0.25 instead of 0.31"``.
    """

    output: str
    amount: float
    text: str

    def __str__(self) -> str:
        return f"output {self.output!r}, {self.text}" if self.output else self.text


def difference(
    name: str, found: Any, expected: Any, precision: str, tolerances: Mapping[str, float] = TOLERANCES
) -> Difference:
    """How far an ONNX answer is from the framework's.

    Parameters
    ----------
    precision : str
        The type that the ONNX model computes in, whose tolerance holds.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if expected.shape != found.shape:
        if expected.size == found.size and _squeezed(expected) == _squeezed(found):
            expected = expected.reshape(found.shape)
        else:
            return Difference(name, np.inf, f"shape {list(found.shape)} instead of {list(expected.shape)}")
    if not found.size:
        return Difference(name, 0.0, "")
    if expected.dtype.kind in "OUSbiu" or found.dtype.kind in "OUSbiu":
        return _exact(name, found, expected)
    tolerance = tolerances.get(precision, TOLERANCES["float32"])
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    unlike = (finite != np.isfinite(found)) | (~finite & ~_same(found, expected))
    if unlike.any():
        return Difference(name, np.inf, _first(unlike, found, expected))
    if not finite.any():
        return Difference(name, 0.0, "")
    with np.errstate(invalid="ignore"):
        away = np.where(finite, np.abs(found - expected), 0)
    sizes = np.where(finite, np.abs(expected), 0)
    top = float(sizes.max())
    columns = sizes.max(axis=tuple(range(sizes.ndim - 1)), keepdims=True)
    columns = columns if sizes.ndim > 1 and sizes.size // sizes.shape[-1] >= _ROWS else top
    amounts = away / (tolerance * np.maximum(columns, max(_LEAST * top, 1e-30)))
    worst = float(amounts.max())
    return Difference(name, worst, _first(amounts == worst, found, expected))


def tied(expected: Any, precision: str) -> Any:
    """For each row of a classifier's scores whether the two best are too near to tell which is first."""
    scores = np.asarray(expected, np.float64)
    tolerance = TOLERANCES.get(precision, TOLERANCES["float32"])
    scale = max(1e-30, float(np.max(np.abs(scores), initial=0)))
    if scores.ndim == 1:
        return np.abs(scores) <= tolerance * scale
    best = np.sort(scores, axis=-1)
    return best[..., -1] - best[..., -2] <= tolerance * scale if scores.shape[-1] > 1 else scores[..., 0] == 0


def _squeezed(array: Any) -> tuple[int, ...]:
    return tuple(size for size in array.shape if size != 1)


def _same(one: Any, other: Any) -> Any:
    return (one == other) | (np.isnan(one) & np.isnan(other))


def _exact(name: str, found: Any, expected: Any) -> Difference:
    if found.dtype.kind in "OUS" or expected.dtype.kind in "OUS":
        unlike = np.array([str(a) != str(b) for a, b in zip(found.ravel(), expected.ravel(), strict=True)])
        unlike = unlike.reshape(found.shape)
    else:
        unlike = found != expected
    if not unlike.any():
        return Difference(name, 0.0, "")
    return Difference(name, np.inf, _first(unlike, found, expected))


def _first(where: Any, found: Any, expected: Any) -> str:
    place = tuple(int(index) for index in np.argwhere(where)[0]) if found.ndim else ()
    told = f"at {list(place)} " if place else ""
    others = int(np.count_nonzero(where)) - 1
    more = f", and {others} more of {found.size}" if others > 0 else ""
    return f"{told}{found[place]!s} instead of {expected[place]!s}{more}"

"""Inputs on which two models are compared: the samples, and shapes and values that the export did not see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbcloud.models import sizes
from nbcloud.models.signature import TEXT, Feeds, Tensor

_SEED = 20
_ROWS = 64
"""Rows of a sample that a made case begins from, at most."""
_REPEATED = 4
"""Rows that take the place of all others, at most."""
_LARGE = 1e3
_ROUNDED = 16
_LEAST = 2.0**-100
"""What zeros become at most, which have no last digit."""
_LAST_DIGIT = {"float64": 2.0**-23, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""In double precision, too, because what a device is given comes in single."""
NAN = "NaN"
"""The case with holes in its numbers."""
FAR = "large values"
"""The case in which rounding may grow: the model was not made for such numbers."""
_ACCENTS = ("Ærøskøbing, naïve café", "北京大学 AI", "a", "", "  spaces  and\ttabs ", "ΑΒΓ 123 !?")


@dataclass(frozen=True)
class Case:
    """One comparison.

    Parameters
    ----------
    is_sample : bool
        Whether these are the user's own values: there, nothing is forgiven.
    """

    name: str
    feeds: Feeds
    is_sample: bool = False


def cases(inputs: tuple[Tensor, ...], feeds: Feeds) -> Iterator[Case]:
    """The sample, then what is made of it.

    Other sizes of each dimension that varies; rows in another order, so that a batch may not have been baked
    in; values near, between and far from those of the sample, where the models may see them one day.
    """
    random = np.random.default_rng(_SEED)
    yield Case("the sample", feeds, is_sample=True)
    for size in sizes.names(inputs):
        length = sizes.size_of(inputs, feeds, size)
        for other in sorted({1, 2, length + 3, max(1, length // 2)} - {length}):
            yield Case(f"{size} = {other}", sizes.resized(inputs, feeds, size, other))
    few = {name: value[:_ROWS] if np.ndim(value) else value for name, value in feeds.items()}
    if not _aligned(inputs):
        few = feeds
    batches = {np.shape(value)[:1] for value in few.values()}
    if len(batches) == 1 and any(_kind(each)[0] in "iub" for each in inputs):
        # Whole numbers may be lengths or places: other values than real ones could be refused. A batch that
        # is fixed may be so because they were baked in.
        rows = sum(batches.pop())
        for row in range(min(rows, _REPEATED) if rows > 1 else 0):
            repeated = {name: np.repeat(value[row : row + 1], rows, axis=0) for name, value in few.items()}
            yield Case(f"row {row} repeated", repeated)
    if any(_kind(each)[0] in "iub" for each in inputs):
        yield Case("other whole numbers", _each(inputs, few, lambda _, value: _others(value, random), "iub"))
        yield Case("whole numbers beside", _each(inputs, few, lambda _, value: _next(value, random), "iu"))
        # Sequences and their masks end so, though those of the sample may all be full.
        yield Case("zeros at the ends", _each(inputs, few, lambda _, value: _cut_short(value), "iub"))
    if any(_kind(each) == "f" for each in inputs):
        yield Case("the other sign", _each(inputs, few, lambda _, value: -value))
        yield Case("zeros", _each(inputs, few, lambda _, value: np.zeros_like(value)))
        yield Case("values beside the sample's", _each(inputs, few, lambda _, value: _beside(value, random)))
        yield Case(
            "values between the sample's", _each(inputs, few, lambda _, value: _between(value, random))
        )
        yield Case(FAR, _each(inputs, few, lambda _, value: _far(value, random)))
        yield Case(NAN, _each(inputs, few, lambda _, value: _holed(value, random)))
    if any(each.dtype == TEXT for each in inputs):
        yield Case("texts with accents", _texts(inputs, few))


def rounded(inputs: tuple[Tensor, ...], feeds: Feeds, precision: str) -> Iterator[Feeds]:
    """The same values as a computer may round them that works in this precision, a few times."""
    random = np.random.default_rng(_SEED)

    def change(_: Tensor, value: Any) -> Any:
        moves = random.choice([-1, 1], size=value.shape) * _LAST_DIGIT[precision]
        least = random.uniform(-1, 1, size=value.shape) * _LEAST
        return np.where(value == 0, least, value * (1 + moves)).astype(value.dtype)

    for _ in range(_ROUNDED):
        yield _each(inputs, feeds, change)


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == TEXT:
        return TEXT
    return "f" if tensor.dtype.startswith(("float", "bfloat")) else tensor.dtype[0]


def _aligned(inputs: tuple[Tensor, ...]) -> bool:
    """Whether the first dimension of every input is the batch, which may be cut."""
    first = {each.shape[0] if each.shape else 0 for each in inputs}
    return len(first) == 1 and all(isinstance(size, str) for size in first)


def _each(inputs: tuple[Tensor, ...], feeds: Feeds, change: Any, kinds: str = "f") -> Feeds:
    return {
        each.name: change(each, feeds[each.name]) if _kind(each)[0] in kinds else feeds[each.name]
        for each in inputs
    }


def _scale(value: Any) -> Any:
    finite = np.where(np.isfinite(value), np.abs(value), 0)
    top = np.max(finite, axis=0, keepdims=True) if value.ndim > 1 else np.max(finite, initial=0)
    return np.where(top > 0, top, 1)


def _beside(value: Any, random: np.random.Generator) -> Any:
    """Each value a hair away: rows cross the thresholds that a sample sits on."""
    steps = random.choice([-1, 1], size=value.shape) * np.finfo(np.float32).eps
    return (value * (1 + 4 * steps)).astype(value.dtype)


def _others(value: Any, random: np.random.Generator) -> Any:
    """Whole numbers from the sample's smallest to its largest, of each column where there are columns."""
    low, high = _range(value)
    return random.integers(low, high, size=value.shape, dtype=value.dtype, endpoint=True)


def _next(value: Any, random: np.random.Generator) -> Any:
    """Each number or the one above it, which single precision can't tell apart beyond 2**24."""
    moves = (random.random(value.shape) < 0.5) & (value < _range(value)[1])
    return value + moves.astype(value.dtype)


def _cut_short(value: Any) -> Any:
    """Rows whose second half is zero."""
    if value.ndim < 2:
        return value
    length = value.shape[1]
    return np.concatenate([value[:, : length - length // 2], np.zeros_like(value[:, : length // 2])], axis=1)


def _range(value: Any) -> tuple[Any, Any]:
    """The smallest and the largest value, of each column where there are columns."""
    axis = 0 if value.ndim > 1 else None
    return value.min(axis=axis, keepdims=True), value.max(axis=axis, keepdims=True)


def _between(value: Any, random: np.random.Generator) -> Any:
    return (random.uniform(-1, 1, size=value.shape) * _scale(value)).astype(value.dtype)


def _far(value: Any, random: np.random.Generator) -> Any:
    top = float(np.finfo(value.dtype).max) / 1e3 if value.dtype.kind == "f" else np.inf
    made = random.uniform(-1, 1, size=value.shape) * np.minimum(_scale(value).astype(float) * _LARGE, top)
    return made.astype(value.dtype)


def _holed(value: Any, random: np.random.Generator) -> Any:
    holes = random.random(value.shape) < 0.2
    return np.where(holes, np.asarray(np.nan, value.dtype), value)


def _texts(inputs: tuple[Tensor, ...], feeds: Feeds) -> Feeds:
    made = {}
    for each in inputs:
        value = feeds[each.name]
        if each.dtype == TEXT:
            flat = value.ravel().tolist()
            words = [*_ACCENTS, *(f"{text} {extra}" for text, extra in zip(flat, _ACCENTS, strict=False))]
            new = [words[place % len(words)] for place in range(len(flat))]
            value = np.array(new, dtype=object).reshape(value.shape)
        made[each.name] = value
    return made

"""Which dimensions of a module's inputs vary, what they are called, and other sizes to try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.models.exportable import Options
from nbcloud.models.signature import Feeds, Tensor
from nbcloud.models.sizes import size_of

Shapes = dict[str, tuple[int | str, ...]]
LARGEST = 4096
_ELEMENTS = 2**22
_TRIES = 12
"""Of other sizes for each dimension, of elements in what is tried, at most: each is a run of both models."""


def varying(samples: Sequence[Feeds], options: Options) -> tuple[Shapes, list[str]]:
    """The inputs' shapes, with names for the dimensions that vary, and notes on the choice.

    Parameters
    ----------
    samples : sequence of Feeds
        The first one is exported; where others differ from it, dimensions vary.
    """
    first = samples[0]
    shapes: dict[str, list[int | str]] = {name: [*value.shape] for name, value in first.items()}
    if isinstance(options.dynamic, Mapping):
        _asked(shapes, options.dynamic)
        return _frozen(shapes), []
    if options.dynamic is False:
        return _frozen(shapes), []
    notes: list[str] = []
    named = {name: value for name, value in first.items() if value.ndim}
    batches = {value.shape[0] for value in named.values()}
    if len(batches) == 1:
        for name in named:
            shapes[name][0] = "batch"
    elif len(samples) == 1 and named:
        notes.append(
            "No batch varies, since the inputs' first dimensions differ; dynamic= says which dimensions do."
        )
    lengths = {value.shape[1] for value in named.values() if _is_tokens(value)}
    if len(lengths) == 1:
        for name, value in named.items():
            if value.ndim == 2 and value.shape[1] in lengths:
                shapes[name][1] = "length"
    _differing(shapes, samples)
    return _frozen(shapes), notes


def _is_tokens(value: Any) -> bool:
    return value.ndim == 2 and value.dtype.kind in "iu"


def _asked(shapes: dict[str, list[int | str]], dynamic: Mapping[str, Mapping[int, str]]) -> None:
    for name, axes in dynamic.items():
        if name not in shapes:
            raise UsageError(f"There is no input {name!r}.", f"There are: {', '.join(shapes)}.")
        for axis, size in axes.items():
            if not -len(shapes[name]) <= axis < len(shapes[name]):
                raise UsageError(
                    f"The input {name!r} has no dimension {axis}.", f"It has {len(shapes[name])}."
                )
            shapes[name][axis] = size


def _differing(shapes: dict[str, list[int | str]], samples: Sequence[Feeds]) -> None:
    """Name the dimensions in which samples differ; those that go together have one name."""
    names: dict[tuple[int, ...], str] = {}
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            sizes = tuple(sample[name].shape[axis] for sample in samples)
            if len(set(sizes)) > 1:
                if sizes not in names:
                    names[sizes] = size if isinstance(size, str) else f"{name}_{axis}"
                shape[axis] = names[sizes]


def _frozen(shapes: dict[str, list[int | str]]) -> Shapes:
    return {name: tuple(shape) for name, shape in shapes.items()}


def others(inputs: Sequence[Tensor], feeds: Feeds, name: str, bounds: Iterable[int]) -> list[int]:
    """Sizes to try: those of the verification, and those for which the code may do something else."""
    now = size_of(inputs, feeds, name)
    usual = [1, 2, now + 3, max(1, now // 2), now + 1]
    elements = max(value.size for value in feeds.values()) / max(1, now)
    fits = [
        size
        for size in dict.fromkeys([*usual, *bounds])
        if 1 <= size <= LARGEST and size * elements <= _ELEMENTS and size != now
    ]
    return fits[: _TRIES + len(usual)]

"""Which sizes of an ONNX model vary: what its file says, what the sample has, and what is seen to work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nbcloud.errors import ExportError, UsageError
from nbcloud.models import sizes
from nbcloud.models.signature import TEXT, Feeds, Signature, Tensor

Dynamic = Mapping[str, Mapping[int, str]] | bool | None


def given_sizes(
    inputs: tuple[Tensor, ...], sample: Any, dynamic: Dynamic
) -> tuple[tuple[Tensor, ...], Feeds]:
    """The inputs with their sizes, and the sample as they take it.

    Raises
    ------
    SchemaError
        When the sample is not what the file takes.
    UsageError, ExportError
        When ``dynamic`` names what there is not, or what the file fixes.
    """
    feeds = Signature(_of_any_rank(inputs, sample), ()).feeds(sample)
    shaped = []
    for each in inputs:
        there = np.shape(feeds[each.name])
        shape = (
            each.shape
            if each.shape
            else tuple("batch" if axis == 0 else size for axis, size in enumerate(there))
        )
        shaped.append(replace(each, shape=tuple(there) if dynamic is False else shape))
    if isinstance(dynamic, Mapping):
        shaped = _named(shaped, dynamic)
    return _consistent(tuple(shaped), feeds), feeds


def _of_any_rank(inputs: tuple[Tensor, ...], sample: Any) -> tuple[Tensor, ...]:
    """Inputs of which the file says no shape take that of the sample."""
    if all(each.shape for each in inputs):
        return inputs
    arrays = (
        sample
        if isinstance(sample, Mapping)
        else dict(
            zip(
                (each.name for each in inputs),
                sample if isinstance(sample, tuple) else (sample,),
                strict=False,
            )
        )
    )
    return tuple(
        each if each.shape else replace(each, shape=tuple(np.shape(arrays.get(each.name, ()))))
        for each in inputs
    )


def _named(inputs: list[Tensor], dynamic: Mapping[str, Mapping[int, str]]) -> list[Tensor]:
    there = {each.name: each for each in inputs}
    for name, axes in dynamic.items():
        if name not in there:
            raise UsageError(f"The model has no input {name!r}.", f"It has: {', '.join(there)}.")
        shape = list(there[name].shape)
        for axis, size in axes.items():
            if not 0 <= axis < len(shape):
                raise UsageError(f"The input {name!r} has {len(shape)} dimensions, and no number {axis}.")
            if isinstance(shape[axis], int):
                raise ExportError(
                    f"The file fixes the size of dimension {axis} of {name!r}: {shape[axis]}.",
                    "Export the model again with that dimension dynamic.",
                )
            shape[axis] = size
        there[name] = replace(there[name], shape=tuple(shape))
    return list(there.values())


def _consistent(inputs: tuple[Tensor, ...], feeds: Feeds) -> tuple[Tensor, ...]:
    """Sizes of one name that differ in the sample are not the same one."""
    lengths: dict[str, int] = {}
    made = []
    for each in inputs:
        shape: list[int | str] = []
        for axis, size in enumerate(each.shape):
            length = np.shape(feeds[each.name])[axis]
            if isinstance(size, str) and lengths.setdefault(size, length) != length:
                size = f"{each.name}_{axis}"
                lengths[size] = length
            shape.append(size)
        made.append(replace(each, shape=tuple(shape)))
    return tuple(made)


def seen_sizes(
    inputs: tuple[Tensor, ...], feeds: Feeds, answers: Callable[[Feeds], Feeds]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[str]]:
    """The inputs and outputs with the sizes that vary when they are tried, and what to know of the others."""
    first = answers(feeds)
    shapes: dict[str, list[int | str]] = {name: list(np.shape(value)) for name, value in first.items()}
    fixed: dict[str, int] = {}
    notes = []
    for size in sizes.names(inputs):
        length = sizes.size_of(inputs, feeds, size)
        asked = dict.fromkeys(other for other in (length + 1, 2 * length, 1) if other != length)
        found = {other: _tried(inputs, feeds, size, other, answers) for other in asked}
        answered = {other: value for other, value in found.items() if value is not None}
        if not answered:
            fixed[size] = length
            notes.append(f"The file says that {size!r} varies; it answers no other size than {length}.")
            continue
        if len(answered) < len(found):
            refused = ", ".join(str(each) for each in found if each not in answered)
            notes.append(f"Not every number is answered for {size!r}: {refused} is refused.")
        other, values = next(iter(answered.items()))
        for name, value in values.items():
            if np.ndim(value) != len(shapes[name]):
                continue
            for axis, (now, before) in enumerate(zip(np.shape(value), np.shape(first[name]), strict=True)):
                if now != before:
                    shapes[name][axis] = size if now == other else f"{name}_{axis}"
    inputs = tuple(
        replace(
            each, shape=tuple(fixed.get(size, size) if isinstance(size, str) else size for size in each.shape)
        )
        for each in inputs
    )
    outputs = tuple(
        Tensor(name, TEXT if value.dtype.kind in "OU" else str(value.dtype), tuple(shapes[name]))
        for name, value in ((name, np.asarray(value)) for name, value in first.items())
    )
    return inputs, outputs, notes


def _tried(
    inputs: tuple[Tensor, ...], feeds: Feeds, size: str, length: int, answers: Callable[[Feeds], Feeds]
) -> Feeds | None:
    try:
        return answers(sizes.resized(inputs, feeds, size, length))
    except Exception:  # noqa: BLE001 - it is asked whether it answers
        return None

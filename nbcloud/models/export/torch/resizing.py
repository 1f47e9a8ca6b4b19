"""The ONNX file beside the module at other sizes than the sample's, and what those make of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbcloud.models import sizes as dimensions
from nbcloud.models.export.torch import sizes
from nbcloud.models.export.torch.program import Program
from nbcloud.models.signature import Feeds, Tensor
from nbcloud.models.verify.compare import difference


@dataclass
class Resized:
    """What other sizes showed.

    Parameters
    ----------
    wrong : dict
        Dimensions with a size for which the ONNX model answers otherwise, and why.
    shapes : list
        Of the outputs, with names for the sizes that vary.
    notes : list of str
    """

    shapes: list[tuple[int | str, ...]]
    wrong: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare(
    session: Any,
    predict: Callable[[Feeds], Feeds],
    inputs: Sequence[Tensor],
    outputs: Sequence[str],
    feeds: Feeds,
    precision: str,
    assumed: Program | None,
) -> Resized:
    """Run both at other sizes of each dimension that varies.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    predict : callable
        The module's own answers.
    assumed : Program, optional
        Knows sizes at which the code may do something else.
    """
    right = predict(feeds)
    found = Resized([right[name].shape for name in outputs])
    for name in dimensions.names(inputs):
        bounds = assumed.bounds.get(name, []) if assumed else []
        place = assumed.places.get(name, "") if assumed else ""
        for size in sizes.others(inputs, feeds, name, bounds):
            other = dimensions.resized(inputs, feeds, name, size)
            try:
                expected = predict(other)
            except Exception:  # noqa: BLE001, S112 - the model takes no such size, so there is nothing to compare
                continue
            if not _agrees(session, {each.name: other[each.name] for each in inputs}, expected, precision):
                does = (
                    f"the code does something else ({place})" if place else "the ONNX model answers otherwise"
                )
                found.wrong[name] = f"with {size}, {does}"
                break
            own = dimensions.size_of(inputs, feeds, name)
            for number, output in enumerate(outputs):
                _see(found, number, output, (name, own, size), (right[output].shape, expected[output].shape))
    return found


def _see(
    found: Resized,
    number: int,
    output: str,
    changed: tuple[str, int, int],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    """Name the sizes of an output that changed with that of an input."""
    name, own, size = changed
    sample, seen = shapes
    shape = [*found.shapes[number]]
    if len(seen) != len(sample):
        found.notes.append(
            f"The output {output!r} has another number of dimensions with {name} = {size}, "
            f"{list(seen)}, than with {own}, {list(sample)}, as a bare squeeze() makes it."
        )
        if len(seen) > len(shape):
            shape = [name if each == size else each for each in seen]
    else:
        for axis in range(len(seen)):
            if seen[axis] != sample[axis]:
                shape[axis] = name if seen[axis] == size else f"{output}_{axis}"
    found.shapes[number] = tuple(shape)


def _agrees(session: Any, feeds: Feeds, expected: Feeds, precision: str) -> bool:
    names = [each.name for each in session.get_outputs()]
    try:
        found = session.run(names, feeds)
    except Exception:  # noqa: BLE001 - onnxruntime has many, of no common kind
        return False
    return expected.keys() == set(names) and all(
        difference(name, value, expected[name], precision).amount <= 1
        for name, value in zip(names, found, strict=True)
    )

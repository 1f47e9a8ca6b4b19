"""The sizes of what a model gives: which of them vary, and with which of its inputs' sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nbcloud.models import sizes
from nbcloud.models.signature import Feeds, Tensor

Sizes = tuple[int | str, ...]


def of_outputs(
    answer: Mapping[str, tuple[int, ...]],
    predict: Callable[[Feeds], Feeds],
    inputs: tuple[Tensor, ...],
    feeds: Feeds,
    declared: Mapping[str, tuple[int | None, ...]],
) -> dict[str, Sizes]:
    """The shape of each output, found by asking the model about inputs of twice the size.

    Parameters
    ----------
    answer : mapping
        The shapes of what the model answers to the sample.
    feeds : mapping
        The sample.
    declared : mapping
        The sizes of outputs as far as the model declares them.
    """
    lengths = {size: sizes.size_of(inputs, feeds, size) for size in sizes.names(inputs)}
    asked = {
        size: _answer(predict, sizes.resized(inputs, feeds, size, 2 * length))
        for size, length in lengths.items()
    }
    told: dict[str, Sizes] = {}
    for name, seen in answer.items():
        shape: list[int | str] = []
        for axis, size in enumerate(seen):
            found = {key: shapes[name][axis : axis + 1] for key, shapes in asked.items() if shapes}
            follows = [key for key, other in found.items() if other != (size,)]
            known = declared[name][axis] if len(declared.get(name, ())) > axis else size
            refused = [key for key, shapes in asked.items() if not shapes and lengths[key] == size]
            if len(follows) == 1 and size == lengths[follows[0]] and found[follows[0]] == (2 * size,):
                shape.append(follows[0])
            elif not follows and (known is not None or not lengths) and (name in declared or not refused):
                shape.append(int(size))
            else:
                shape.append(refused[0] if refused and not follows else f"{name}_{axis}")
        told[name] = tuple(shape)
    return told


def _answer(predict: Callable[[Feeds], Feeds], feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """The shapes of what the model answers; nothing where it refuses."""
    try:
        return {name: value.shape for name, value in predict(feeds).items()}
    except Exception:  # noqa: BLE001 - whatever it says: some sizes are more than a model takes
        return {}

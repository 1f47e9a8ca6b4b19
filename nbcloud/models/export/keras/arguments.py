"""What a model is called with, and what it gives: structures of tensors, and their names in ONNX."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nbcloud.errors import ExportError, UsageError
from nbcloud.models.exportable import Options
from nbcloud.models.signature import TEXT, Feeds, Signature, Tensor

_AXES = {2: ("length",), 3: ("length", "channels"), 4: ("height", "width", "channels")}
UNKNOWN = "any"
MADE_UP = re.compile(r"(keras_tensor|input_layer)(_\d+)?(CLONE)?")


@dataclass(frozen=True)
class Arguments:
    """How a model is called.

    Parameters
    ----------
    structure : tuple
        Positional arguments and keyword arguments; in place of each tensor, its name in Keras.
    inputs : tuple of Tensor
        In the order in which the structure is flattened.
    built : int, optional
        The batch that the model was built with, which may be only that of its first call.
    """

    structure: tuple[tuple[Any, ...], dict[str, Any]]
    inputs: tuple[Tensor, ...]
    built: int | None = None

    def native(self, values: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments with these tensors in them."""
        rest = iter(values)
        args, kwargs = self.structure
        return [_filled(each, rest) for each in args], {key: _filled(kwargs[key], rest) for key in kwargs}

    def feeds(self, sample: Any) -> Feeds:
        """The sample by the inputs' names, as the types say."""
        native = [name for _, name in leaves(self.structure)]
        if isinstance(sample, Mapping):
            told = dict(zip(native, self.inputs, strict=True))
            sample = {
                told[key].name if key in told else key: _like(told.get(key), value)
                for key, value in flat(sample).items()
            }
        elif isinstance(sample, (list, tuple)) and len(self.inputs) > 1:
            sample = tuple(
                _like(each, value) for each, value in zip(self.inputs, sample, strict=False)
            ) + tuple(map(plain, sample[len(self.inputs) :]))
        elif not (hasattr(sample, "columns") and hasattr(sample, "dtypes")):
            sample = _like(self.inputs[0] if len(self.inputs) == 1 else None, sample)
        return Signature(self.inputs, ()).feeds(sample)


def of_graph(graph: Any, sample: Any) -> Arguments:
    """The arguments of a Functional or Sequential model, as it declares them."""
    structure: tuple[Any, Any] = ((placeholders(graph._inputs_struct),), {})
    found = leaves(graph._inputs_struct)
    inputs = []
    for number, (path, tensor) in enumerate(found):
        if tensor.sparse or getattr(tensor, "ragged", False):
            raise ExportError(
                f"The input {tensor.name!r} is {'sparse' if tensor.sparse else 'ragged'}; ONNX has none.",
                "Build the model with a dense input.",
            )
        name = path if not path.isdigit() else ""
        if not name and not MADE_UP.fullmatch(tensor.name):
            name = tensor.name
        name = name or ("input" if len(found) == 1 else f"input_{number}")
        dtype = TEXT if tensor.dtype == "string" else tensor.dtype
        inputs.append(Tensor(name, dtype, tuple(UNKNOWN if size is None else size for size in tensor.shape)))
    made = Arguments(structure, tuple(inputs))
    if _is_table(sample) and len(inputs) == 1:
        columns = tuple(str(column) for column in sample.columns)
        made = replace(made, inputs=(replace(inputs[0], columns=columns),))
    first = {each.shape[0] for each in made.inputs if each.shape}
    if len(first) == 1 and isinstance(batch := first.pop(), int):
        made = replace(made, built=batch, inputs=with_batch(made.inputs, UNKNOWN))
    return replace(made, inputs=with_sizes(made.inputs, made.feeds(sample)))


def with_batch(inputs: tuple[Tensor, ...], size: int | str) -> tuple[Tensor, ...]:
    """The inputs with another first dimension."""
    return tuple(replace(each, shape=(size, *each.shape[1:])) if each.shape else each for each in inputs)


def of_sample(call: Any, sample: Any, floats: str) -> Arguments:
    """The arguments of a model that declares none: as many as its call needs, shaped as the sample."""
    if _is_table(sample):
        sample = sample.to_numpy()
    names = _required(call)
    args: tuple[Any, ...] = (sample,)
    if len(names) > 1:
        if isinstance(sample, Mapping):
            args = tuple(sample[name] for name in names if name in sample)
        elif isinstance(sample, (list, tuple)):
            args = tuple(sample)
        if len(args) != len(names):
            raise UsageError(
                f"The model is called with {', '.join(names)}, and the sample has not as many.",
                f"Give it by name: {{{', '.join(repr(name) + ': …' for name in names)}}}.",
            )
        named = dict(zip(names, args, strict=True))
        found = flat(named)
        args = tuple(placeholders(value, name) for name, value in named.items())
    else:
        found = {path or "input": value for path, value in flat(sample).items()}
        args = (placeholders(sample, "" if isinstance(sample, (Mapping, list, tuple)) else "input"),)
    inputs = []
    for name, value in found.items():
        array = plain(value)
        dtype = TEXT if array.dtype == object else floats if array.dtype == np.float64 else str(array.dtype)
        inputs.append(Tensor(name, dtype, ("batch", *array.shape[1:]) if array.ndim else ()))
    order = [name for _, name in leaves((args, {}))]
    inputs.sort(key=lambda each: order.index(each.name))
    return Arguments((args, {}), tuple(inputs))


def with_dynamic(
    inputs: tuple[Tensor, ...], feeds: Feeds, options: Options, fixed: bool
) -> tuple[Tensor, ...]:
    """The inputs with the sizes that vary as they were asked for.

    Parameters
    ----------
    fixed : bool
        Whether the model itself knows which sizes can vary.
    """
    if options.dynamic is None or options.dynamic is True:
        return inputs
    asked: Mapping[str, Mapping[int, str]] = options.dynamic or {}
    known = {each.name: each for each in inputs}
    for name, axes in asked.items():
        if name not in known:
            raise UsageError(f"The model has no input {name!r}.", f"It has: {', '.join(known)}.")
        for axis in axes:
            size = known[name].shape[axis] if axis < len(known[name].shape) else None
            if size is None or (fixed and isinstance(size, int)):
                raise UsageError(
                    f"Dimension {axis} of the input {name!r} can't vary: the model takes {known[name]}.",
                    "Build the model with None there.",
                )
    made = []
    for each in inputs:
        if each.name not in asked and options.dynamic is not False:
            made.append(each)
            continue
        chosen = asked.get(each.name, {})
        sizes = feeds[each.name].shape
        made.append(replace(each, shape=tuple(chosen.get(n, size) for n, size in enumerate(sizes))))
    return tuple(made)


def renamed(inputs: tuple[Tensor, ...], names: Sequence[str] | None, what: str) -> tuple[str, ...]:
    """The names as they were asked for.

    Raises
    ------
    UsageError
        When there are not as many as inputs or outputs.
    """
    given = tuple(each.name for each in inputs)
    if names is None:
        return given
    if len(names) != len(given) or len(set(names)) != len(given):
        raise UsageError(
            f"{len(set(names))} names for {what}s were given, and the model has {len(given)}.",
            f"They are in this order: {', '.join(given)}.",
        )
    return tuple(names)


def output_names(graph: Any, answer: Any) -> tuple[str, ...]:
    """Names for what a model gives: its own keys, or those of layers that the user named."""
    found = leaves(answer)
    own = getattr(graph, "_outputs_struct", None)
    operations = [tensor._keras_history.operation for _, tensor in leaves(own)] if own is not None else []
    names: list[str] = []
    for number, (path, _) in enumerate(found):
        name = path if not path.isdigit() else ""
        if not name and number < len(operations) and not _is_made_up(operations[number]):
            name = operations[number].name
        name = name or ("output" if len(found) == 1 else f"output_{number}")
        names.append(name if name not in names else f"{name}_{number}")
    return tuple(names)


def leaves(structure: Any, path: str = "") -> list[tuple[str, Any]]:
    """What is in dictionaries, lists and tuples, each with the way to it, in Keras' order."""
    if isinstance(structure, Mapping):
        items: Any = [(str(key), structure[key]) for key in sorted(structure, key=str)]
    elif isinstance(structure, (list, tuple)):
        items = [(str(number), each) for number, each in enumerate(structure)]
        if len(items) == 1:
            return leaves(items[0][1], path)
    else:
        return [] if structure is None else [(path, structure)]
    return [found for key, each in items for found in leaves(each, f"{path}_{key}" if path else key)]


def named(names: Sequence[str], answer: Any) -> Iterator[tuple[str, Any]]:
    """What a model gave, by the names that it has for the sample; what is more than that has a number."""
    for number, (_, value) in enumerate(leaves(answer)):
        yield names[number] if number < len(names) else f"output_{number}", value


def flat(structure: Any) -> dict[str, Any]:
    """The same, as a dictionary."""
    return dict(leaves(structure))


def plain(value: Any) -> Any:
    """A tensor of any framework, or a list, as an array; texts as texts."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind == "S" or (array.dtype == object and array.size and isinstance(array.flat[0], bytes)):
        array = np.array([each.decode() for each in array.ravel().tolist()], object).reshape(array.shape)
    return array.astype(object) if array.dtype.kind in "UT" else array


def _like(tensor: Tensor | None, value: Any) -> Any:
    """Keras lets a last dimension of 1 be left out."""
    array = plain(value)
    if tensor is not None and array.ndim == len(tensor.shape) - 1 and tensor.shape[-1] == 1:
        return array[..., None]
    return array


def with_sizes(inputs: tuple[Tensor, ...], feeds: Feeds) -> tuple[Tensor, ...]:
    """Names for the sizes that vary: one for those that are the same in the sample."""
    known: dict[str, int] = {}
    made = []
    for each in inputs:
        sizes = list(each.shape)
        for axis, size in enumerate(sizes):
            if size != UNKNOWN:
                continue
            names = _AXES.get(len(sizes), ())
            name = "batch" if axis == 0 else names[axis - 1] if axis <= len(names) else f"size{axis}"
            length = feeds[each.name].shape[axis]
            if known.setdefault(name, length) != length:
                name = f"{name}_{each.name}"
            sizes[axis] = name
        made.append(replace(each, shape=tuple(sizes)))
    return tuple(made)


def _required(call: Any) -> list[str]:
    parameters = inspect.signature(call).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        each.name
        for each in parameters
        if each.kind in kinds and each.default is each.empty and each.name not in ("self", "training", "mask")
    ]


def placeholders(structure: Any, path: str = "") -> Any:
    """The structure with names in place of tensors: those of Keras' own, or the ways to them."""
    if isinstance(structure, Mapping):
        return {
            key: placeholders(structure[key], f"{path}_{key}" if path else str(key))
            for key in sorted(structure, key=str)
        }
    if isinstance(structure, (list, tuple)):
        if len(structure) == 1:
            return [placeholders(structure[0], path)]
        return [placeholders(each, f"{path}_{n}" if path else str(n)) for n, each in enumerate(structure)]
    return structure.name if hasattr(structure, "_keras_history") and path.isdigit() else path


def _filled(structure: Any, values: Iterator[Any]) -> Any:
    if isinstance(structure, dict):
        return {key: _filled(each, values) for key, each in structure.items()}
    if isinstance(structure, list):
        return [_filled(each, values) for each in structure]
    return next(values)


def _is_table(sample: Any) -> bool:
    return hasattr(sample, "columns") and hasattr(sample, "dtypes")


def _is_made_up(operation: Any) -> bool:
    """Whether Keras made the name of a layer, which depends on how many it made before."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(operation).__name__)
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    return bool(re.fullmatch(rf"{re.escape(snake)}(_\d+)?", operation.name))

"""What forward takes and gives, as tensors by name: tuples, mappings and dataclasses are taken apart."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from nbcloud.errors import ExportError

_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class _Place:
    """Where a tensor stands in the arguments."""

    number: int


@dataclass
class Call:
    """How forward is called with tensors in a row.

    Parameters
    ----------
    positional, named
        Its arguments, with a mark in the place of each tensor.
    names : list of str
        Of the tensors: the argument's, and the way to it where it holds several.
    constants : list of str
        Arguments that are no tensors, and so are part of the exported model.
    """

    positional: tuple[Any, ...]
    named: dict[str, Any]
    names: list[str]
    constants: list[str]

    def __call__(self, model: Any, tensors: Sequence[Any]) -> Any:
        """What the model gives for these tensors."""
        positional = [_filled(each, tensors) for each in self.positional]
        return model(*positional, **{key: _filled(each, tensors) for key, each in self.named.items()})


def read(model: Any, sample: Any, dtype: Any) -> tuple[Call, list[Any]]:
    """Take a sample apart.

    Parameters
    ----------
    dtype : torch.dtype
        Of the model's weights: arrays of fractions are given as these, since numpy's are double.
    """
    parameters = inspect.signature(model.forward).parameters
    positional, named = _arguments(sample, parameters)
    call = Call((), {}, [], [])
    tensors: list[Any] = []
    names = _positional_names(parameters, len(positional))
    call.positional = tuple(
        _taken(each, name, call, tensors, dtype) for name, each in zip(names, positional, strict=True)
    )
    call.named = {key: _taken(each, key, call, tensors, dtype) for key, each in named.items()}
    if not tensors:
        raise ExportError(
            f"The sample has no tensor: it is a {type(sample).__name__}.",
            "Give a tensor or an array, or a tuple or mapping of such, as forward takes them.",
        )
    return call, tensors


def _arguments(sample: Any, parameters: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(sample, Mapping):
        kinds = {each.kind for each in parameters.values()}
        unknown = [key for key in sample if key not in parameters]
        if not unknown or inspect.Parameter.VAR_KEYWORD in kinds:
            return (), {str(key): value for key, value in sample.items()}
        needed = [each for each in parameters.values() if each.default is inspect.Parameter.empty]
        if len(needed) == 1:  # forward takes the mapping itself
            return (dict(sample),), {}
        raise ExportError(
            f"The model's forward has no argument {unknown[0]!r}.", f"It takes: {', '.join(parameters)}."
        )
    if isinstance(sample, tuple) and not hasattr(sample, "_fields"):
        return sample, {}
    return (sample.to_numpy() if hasattr(sample, "to_numpy") else sample,), {}


def _positional_names(parameters: Mapping[str, Any], count: int) -> list[str]:
    names: list[str] = []
    for each in parameters.values():
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            names.append(each.name)
        elif each.kind == each.VAR_POSITIONAL:
            names += [f"{each.name}{place}" for place in range(count - len(names))]
    if len(names) < count:
        raise ExportError(
            f"The sample has {count} parts, and the model's forward takes {len(names)}.",
            f"It takes: {', '.join(names)}. Several samples are given as a list.",
        )
    return names[:count]


def _taken(value: Any, name: str, call: Call, tensors: list[Any], dtype: Any) -> Any:
    """The value with marks in the place of its tensors, which are added to ``tensors``."""
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise ExportError(
                f"The sample's {name!r} is an array of {value.dtype}, which torch does not take.",
                "Give numbers.",
            )
        value = torch.tensor(value)
        value = value.to(dtype) if value.is_floating_point() and dtype is not None else value
    if isinstance(value, torch.Tensor):
        _refuse_kind(value, f"The sample's {name!r}")
        call.names.append(name)
        tensors.append(value.detach().cpu().clone())
        return _Place(len(tensors) - 1)
    if isinstance(value, dict):
        return {key: _taken(each, f"{name}.{key}", call, tensors, dtype) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_taken(each, f"{name}.{at}", call, tensors, dtype) for at, each in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if value is not None:
        call.constants.append(f"{name} = {value!r}" if isinstance(value, _PLAIN) else name)
    return value


def _filled(value: Any, tensors: Sequence[Any]) -> Any:
    if isinstance(value, _Place):
        return tensors[value.number]
    if isinstance(value, dict):
        return {key: _filled(each, tensors) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_filled(each, tensors) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def answers(value: Any) -> tuple[dict[str, Any], list[str]]:
    """The tensors of what forward returned, by name, and what in it is none.

    Names are keys and fields, joined by dots; what has none is ``output``, ``output1``, …
    """
    found: dict[str, Any] = {}
    left: list[str] = []
    for path, named, each in _parts(value, (), named=False):
        name = ".".join(path) if named else ""
        if not _is_tensor(each):
            if each is not None:
                left.append(f"{name or 'output'} ({type(each).__name__})")
            continue
        number = sum(1 for key in found if key == "output" or key.removeprefix("output").isdigit())
        name = name or f"output{number or ''}"
        _refuse_kind(each, f"The output {name!r}")
        found[name] = each
    return found, left


def _parts(value: Any, path: tuple[str, ...], *, named: bool) -> Iterator[tuple[tuple[str, ...], bool, Any]]:
    items: list[tuple[str, Any]]
    names = True
    if isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
    elif hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        items, names = [(str(at), each) for at, each in enumerate(value)], False
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in fields(value)]
    else:
        yield path, named, value
        return
    for key, each in items:
        yield from _parts(each, (*path, key), named=named or names)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _refuse_kind(tensor: Any, what: str) -> None:
    """Refuse tensors of kinds that ONNX has not."""
    import torch

    if tensor.is_complex():
        raise ExportError(
            f"{what} is complex, and ONNX has no complex numbers.",
            "Use torch.view_as_real: real and imaginary parts, side by side in a last dimension.",
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else "sparse"
        raise ExportError(
            f"{what} is a {kind} tensor, which ONNX does not have.",
            "Use to_dense(), dequantize() or to_padded_tensor().",
        )

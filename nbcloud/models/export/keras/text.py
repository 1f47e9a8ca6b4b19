"""Layers with a vocabulary: ONNX can't look up texts as they do, so they are cut off and written as steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nbcloud.errors import ExportError
from nbcloud.models.signature import TEXT, Tensor
from nbcloud.models.steps import LOOK_UP

_KINDS = ("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing")
_STANDARD = (None, "lower", "strip_punctuation", "lower_and_strip_punctuation")


@dataclass(frozen=True)
class Cut:
    """A model without its first layers.

    Parameters
    ----------
    model : keras.Model
        What becomes ONNX; the whole model where nothing is cut.
    inputs : tuple of Tensor
        What that takes, in its order.
    steps : list of dict
        What the layers did that are cut off, as `nbcloud.models.steps` does it.
    """

    model: Any
    inputs: tuple[Tensor, ...]
    steps: list[dict[str, Any]] = field(default_factory=list)


def cut(graph: Any, inputs: tuple[Tensor, ...]) -> Cut:
    """A Functional model without the layers that look up what its inputs have.

    Parameters
    ----------
    inputs : tuple of Tensor
        Of the whole model, in Keras' order.

    Raises
    ------
    ExportError
        When such a layer does not stand at the model's beginning, or does what no step can.
    """
    import keras

    sources = {id(tensor): told for tensor, told in zip(graph.inputs, inputs, strict=True)}
    nodes = list(_nodes_of(graph.outputs))
    looked = [node for node in nodes if _looks_up(node.operation)]
    _refuse_inner(graph, {id(node.operation) for node in looked})
    if not looked:
        return Cut(graph, inputs)
    steps, tensors, made = [], [], []
    for node in sorted(looked, key=lambda node: node.operation.name):
        layer, source = node.operation, sources.get(id(node.input_tensors[0]))
        if source is None:
            raise ExportError(
                f"The layer {layer.name!r} ({type(layer).__name__}) does not stand at the model's beginning, "
                "and ONNX can't look up texts.",
                "Connect it to an input of the model, or export the layers behind it.",
                part=layer.name,
            )
        gives = source.name if len(looked) == 1 else f"{source.name}_{layer.name}"
        output = node.output_tensors[0]
        steps.append(step(layer, source, gives, output.dtype))
        tensors.append(output)
        # Keras declares a dimension of 1 for counts of tokens, and gives none.
        bag = layer.get_config().get("split") and layer.get_config()["output_mode"] != "int"
        shape = (output.shape[0], output.shape[-1]) if bag else output.shape
        made.append(Tensor(gives, output.dtype, _sizes(shape, source)))
    used = {id(node.input_tensors[0]) for node in looked}
    for tensor in graph.inputs:
        others = [node for node in nodes if any(each is tensor for each in node.input_tensors)]
        if id(tensor) not in used or any(not _looks_up(node.operation) for node in others):
            tensors.append(tensor)
            made.append(sources[id(tensor)])
    behind = keras.Model(tensors, graph._outputs_struct)
    behind._adjust_input_rank = lambda values: values
    return Cut(behind, tuple(made), steps)


def refuse(model: Any) -> None:
    """Refuse such layers in a model whose layers can't be told apart: a subclassed one."""
    _refuse_inner(model, set())


def step(layer: Any, takes: Tensor, gives: str, dtype: str) -> dict[str, Any]:
    """What a layer does, as `nbcloud.models.steps` does it.

    Raises
    ------
    ExportError
        When it does what no step can.
    """
    kind = type(layer).__name__
    if kind in ("Hashing", "HashedCrossing"):
        raise _refused(layer, "hashes its input, which neither ONNX nor a step of nbcloud's does")
    config = layer.get_config()
    lookup = layer._lookup_layer if kind == "TextVectorization" else layer
    mode, split = config["output_mode"], config.get("split")
    rank = len(takes.shape)
    if callable(config.get("standardize")) or config.get("standardize") not in _STANDARD:
        raise _refused(layer, "has a standardize function of your own")
    if callable(split) or split not in (None, "whitespace", "character"):
        raise _refused(layer, "has a split function of your own")
    for option in ("invert", "sparse", "ragged"):
        if config.get(option):
            raise _refused(layer, f"has {option}=True")
    if lookup.num_oov_indices > 1:
        raise _refused(layer, f"has num_oov_indices={lookup.num_oov_indices}, for which it hashes")
    whole_batch = (
        rank < 2
        and not split
        and (mode in ("multi_hot", "count", "tf_idf") or config.get("output_sequence_length"))
    )
    if whole_batch or (split and mode == "one_hot") or (rank > 2 and mode not in ("int", "one_hot")):
        raise _refused(layer, f"has output_mode={mode!r} for an input of {rank} dimensions")
    tokens = lookup.get_vocabulary(include_special_tokens=False)
    depth = lookup.max_tokens if lookup.pad_to_max_tokens else lookup.vocabulary_size()
    told: dict[str, Any] = {
        "step": LOOK_UP,
        "takes": takes.to_json(),
        "gives": gives,
        "dtype": dtype,
        "standardize": config.get("standardize"),
        "split": split,
        "ngrams": _widths(config.get("ngrams")),
        "vocabulary": [str(each) if takes.dtype == TEXT else int(each) for each in tokens],
        "first": lookup._token_start_index(),
        "unknown": lookup._oov_start_index() if lookup.num_oov_indices else None,
        "mask": lookup.mask_token,
        "mode": mode,
        "length": config.get("output_sequence_length"),
    }
    if mode != "int":
        told["size"] = int(depth)
    if mode == "tf_idf":
        told["weights"] = [float(each) for each in np.asarray(lookup.idf_weights_const)]
    return {key: value for key, value in told.items() if value is not None}


def _widths(ngrams: Any) -> list[int] | None:
    if ngrams is None:
        return None
    return list(range(1, ngrams + 1)) if isinstance(ngrams, int) else list(ngrams)


def _looks_up(operation: Any) -> bool:
    return any(each.__name__ in _KINDS for each in type(operation).__mro__)


def _nodes_of(tensors: Any) -> Iterator[Any]:
    """Every use of a layer that these tensors come from, once."""
    seen = set()
    waiting = list(tensors)
    while waiting:
        history = waiting.pop()._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) not in seen:
            seen.add(id(node))
            waiting.extend(node.input_tensors)
            yield node


def _refuse_inner(model: Any, known: set[int]) -> None:
    for layer in model._flatten_layers(include_self=False, recursive=False):
        if id(layer) in known:
            continue
        if _looks_up(layer):
            raise ExportError(
                f"The layer {layer.name!r} ({type(layer).__name__}) is inside of {model.name!r}, where "
                "ONNX can't look up texts.",
                "Make it a Functional model's first layer, or export the layers behind it.",
                part=layer.name,
            )
        _refuse_inner(layer, known)


def _sizes(shape: Any, source: Tensor) -> tuple[int | str, ...]:
    first = source.shape[0] if source.shape else "batch"
    return tuple(
        size if size is not None else first if axis == 0 else "tokens" for axis, size in enumerate(shape)
    )


def _refused(layer: Any, why: str) -> ExportError:
    return ExportError(
        f"The layer {layer.name!r} ({type(layer).__name__}) {why}.",
        "Use its standard options, or export the layers behind it and do this one before.",
        part=layer.name,
    )

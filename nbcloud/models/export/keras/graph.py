"""A function of TensorFlow's as ONNX, with the names that it is to have."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbcloud.errors import ExportError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.export.keras.tracing import operators, plain_operations
from nbcloud.models.signature import TEXT, Tensor

OPSET = 18
"""The newest that tf2onnx writes."""
_TENSORFLOW_LOG = re.compile(
    r"[IWEF]\d{4} |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWEF] |WARNING: All log messages before"
)
_FRAMES = ("Exception encountered", "in user code", "File ")


_OPTIMIZERS = {
    "optimize_transpose",
    "fold_constants",
    "loop_optimizer",
    "global_pool_optimizer",
    "remove_identity",
    "remove_back_to_back",
}
"""Those of tf2onnx's that onnxruntime has not itself: each writes the whole model anew, again and again."""
_LARGE = 2**29
"""Bytes of weights from which on TensorFlow's own optimizer, good for small models, takes too much memory."""


def convert(
    call: Callable[..., Sequence[Any]],
    inputs: tuple[Tensor, ...],
    outputs: Sequence[str],
    path: Path,
    opset: int | None,
    layers: Sequence[str] = (),
) -> Any:
    """Write what ``call`` computes; returns the ONNX model.

    Parameters
    ----------
    call : callable
        Takes a tensor for each input, and returns one for each output.
    layers : sequence of str
        Names that its parts may have, to be told when one can't be written.

    Raises
    ------
    ExportError
        Names the operation that ONNX has not, and its layer.
    """
    import tensorflow as tf

    if opset is not None and opset > OPSET:
        raise UsageError(
            f"tf2onnx writes opset {OPSET} at most, not {opset}.", f"Leave opset out, or say {OPSET}."
        )
    specs = [
        tf.TensorSpec(
            [size if isinstance(size, int) else None for size in each.shape],
            tf.string if each.dtype == TEXT else tf.as_dtype(each.dtype),
            name=f"in{number:03}",
        )
        for number, each in enumerate(inputs)
    ]
    made_outputs = [f"out{number:03}" for number in range(len(outputs))]

    def named(*tensors: Any) -> dict[str, Any]:
        return {name: tf.identity(value) for name, value in zip(made_outputs, call(*tensors), strict=True)}

    with quiet() as told:
        try:
            with plain_operations():
                function = tf.function(named, input_signature=specs, autograph=False)
                concrete = function.get_concrete_function()
            given = [tensor.name for tensor in concrete.inputs[: len(specs)]]
            gives = [tensor.name for tensor in concrete.outputs]
            made = _translated(concrete, given, gives, opset or OPSET)
        except Exception as error:
            raise refused(error, told, layers) from error
    check_operators(made, layers)
    names = {name: each.name for name, each in zip(given, inputs, strict=True)}
    name_all(made, names, dict(zip(gives, outputs, strict=True)), inputs)
    onnxfile.save(made, path)
    return made


def _translated(concrete: Any, given: Sequence[str], gives: Sequence[str], opset: int) -> Any:
    """What tf2onnx makes of a traced function.

    Its own ``convert.from_function`` takes eager constants that a layer holds for inputs, and copies the
    whole model before each optimizer.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tf_utils, tfonnx

    weights = sum(each.shape.num_elements() * each.dtype.size for each in concrete.variables)
    large = weights > _LARGE
    frozen = tf_loader.from_function(concrete, given, gives, large_model=large)
    apart = tf_utils.compress_graph_def(frozen) if large else None
    with tf.Graph().as_default() as traced:
        tf.import_graph_def(frozen, name="")
        del frozen

        def translated() -> Any:
            return tfonnx.process_tf_graph(
                traced,
                input_names=given,
                output_names=gives,
                opset=opset,
                continue_on_error=True,
                custom_op_handlers=operators(),
                const_node_values=apart,
            )

        made = translated()
        chosen = {name: each for name, each in optimizer._get_optimizers().items() if name in _OPTIMIZERS}
        try:
            with _unwritten(made):
                optimizer.optimize_graph(made, catch_errors=False, optimizers=chosen)
        except Exception:  # noqa: BLE001 - one that does not know some graph has left it half changed
            made = translated()
        return made.make_model("")


@contextlib.contextmanager
def _unwritten(made: Any) -> Iterator[None]:
    """Each optimizer would write all nodes into messages, which none reads, and whose memory stays."""
    made.update_proto = lambda: None
    try:
        yield
    finally:
        del made.update_proto


def refused(error: Exception, told: Iterable[str], layers: Sequence[str]) -> ExportError:
    """Why a model can't become ONNX, as short as it can be said."""
    for line in told:
        found = re.search(r"Tensorflow op \[(.+): (\w+)\] is not supported", line)
        if found:
            return _unknown(found[2], found[1], layers)
    return ExportError(
        f"The model can't become ONNX: {short(error)}.",
        "Use other layers or settings of them there.",
    )


def short(error: Exception) -> str:
    """The line of an error of Keras' or TensorFlow's that says what is wrong."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_FRAMES)]
    return f"{type(error).__name__}: {(said or [''])[0][:300].rstrip('.')}"


def check_operators(model: Any, layers: Sequence[str] = ()) -> None:
    """Refuse operators that are none of ONNX'."""
    import onnx

    for node in _nodes(model.graph):
        if not onnx.defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain):
            raise _unknown(node.op_type, node.name, layers)


def owner(name: str, layers: Sequence[str]) -> str:
    """The layer in whose scope a node stands."""
    parts = name.split(":")[0].split("/")
    # What is traced again has a number behind each name, the model's own included.
    again = re.search(r"_\d+$", parts[0])
    for part in reversed(parts):
        if again and part.removesuffix(again[0]) in layers:
            return part.removesuffix(again[0])
        if part in layers:
            return part
    return ""


def name_all(
    model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str], tensors: tuple[Tensor, ...]
) -> None:
    """Give inputs, outputs and the inputs' dimensions their names, and the inputs their order.

    Parameters
    ----------
    inputs, outputs : mapping
        The new names by those that they have.
    """
    import onnx

    new = {**inputs, **outputs}
    taken = {name for node in _nodes(model.graph) for name in (*node.input, *node.output)}
    taken |= {each.name for each in model.graph.initializer}
    mapping = {name: f"{name}__inside" for name in set(new.values()) & (taken - new.keys())} | new
    _rename(model.graph, mapping)
    have = {each.name: each for each in model.graph.input}
    del model.graph.input[:]
    for tensor in tensors:
        kind = (
            onnx.TensorProto.STRING
            if tensor.dtype == TEXT
            else onnx.helper.np_dtype_to_tensor_dtype(_numpy(tensor.dtype))
        )
        if tensor.name in have:
            kind = have[tensor.name].type.tensor_type.elem_type
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, kind, list(tensor.shape)))
    order = list(outputs.values())
    found = sorted(model.graph.output, key=lambda each: order.index(each.name))
    kept = []
    for each in found:
        copy = onnx.ValueInfoProto()
        copy.CopyFrom(each)
        kept.append(copy)
    del model.graph.output[:]
    model.graph.output.extend(kept)


def set_output_shapes(model: Any, outputs: Sequence[Tensor]) -> None:
    """Have the outputs' dimensions the names that the signature tells."""
    for value, tensor in zip(model.graph.output, outputs, strict=True):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in tensor.shape:
            dim = shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size


def types(model: Any) -> list[str]:
    """The types of the outputs."""
    import onnx

    kinds = [each.type.tensor_type.elem_type for each in model.graph.output]
    return [
        TEXT if kind == onnx.TensorProto.STRING
        else "bfloat16" if kind == onnx.TensorProto.BFLOAT16
        else str(onnx.helper.tensor_dtype_to_np_dtype(kind))
        for kind in kinds
    ]  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep what TensorFlow and tf2onnx log away from people; what tf2onnx says of errors is given."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings(), without_log() as told, _without_native_log():
        warnings.simplefilter("ignore")
        yield told


@contextlib.contextmanager
def without_log() -> Iterator[list[str]]:
    """Keep what their Python logs from people; gives what it says of errors."""
    told: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    kept = []
    for name in ("tf2onnx", "tensorflow", "absl"):
        logger = logging.getLogger(name)
        kept.append((logger, logger.handlers, logger.propagate, logger.level))
        logger.handlers, logger.propagate = [Keep()], False
        logger.setLevel(logging.ERROR)
    try:
        yield told
    finally:
        for logger, handlers, propagate, level in kept:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


@contextlib.contextmanager
def _without_native_log() -> Iterator[None]:
    """TensorFlow's C++ writes to the process's standard error, past Python: keep that, hand on the rest."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            held.seek(0)
            for line in held:
                if not _TENSORFLOW_LOG.match(line.decode(errors="replace")):
                    os.write(before, line)
            os.close(before)


def _unknown(operator: str, node: str, layers: Sequence[str]) -> ExportError:
    layer = owner(node, layers)
    where = f" in the layer {layer!r}" if layer else ""
    return ExportError(
        f"The operation {operator}{where} can't become ONNX: it has no operator for it.",
        "Use another layer in its place, or export the layers behind it and do this before.",
        part=layer or operator,
    )


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in _nodes(graph):
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                for value in (*inner.output, *inner.input):
                    value.name = names.get(value.name, value.name)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)


def _numpy(name: str) -> Any:
    import ml_dtypes
    import numpy as np

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

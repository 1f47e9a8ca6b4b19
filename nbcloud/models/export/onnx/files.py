"""ONNX files from elsewhere, read with suspicion: nothing of them is run, and no path in them is trusted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from nbcloud.errors import ExportError
from nbcloud.models import onnxfile
from nbcloud.wording import size_text

_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
"""Whose operators onnxruntime has on every kind of machine."""
_BY_CHANCE = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
}  # fmt: skip


def read(source: Any) -> Any:
    """The model of a path or of memory, with its weights.

    Raises
    ------
    ExportError
        When it can't be right, or its answers could not be compared; says what of it.
    """
    import onnx

    if isinstance(source, onnx.ModelProto):
        model, name = onnx.ModelProto(), "The ONNX model"
        model.CopyFrom(source)
        folder = None
    else:
        path = Path(source)
        model, name, folder = _parsed(path), str(path), path.parent
    _check_weights(model, name, folder)
    _check_structure(model, name)
    if folder is not None:
        try:
            onnx.load_external_data_for_model(model, str(folder))
        except Exception as error:
            raise ExportError(f"The weights beside {name} can't be read: {_first_line(error)}.") from error
    _without_maps(model)
    return model


def _parsed(path: Path) -> Any:
    if not path.is_file():
        raise ExportError(f"There is no file {path}.", "Give the path of an .onnx file.")
    try:
        model = onnxfile.load(path, weights=False)
    except Exception as error:
        raise ExportError(
            f"{path} is no ONNX model, or only a part of one ({_first_line(error)}).",
            "Copy or write the file again.",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ExportError(
            f"{path} has no graph: it is no ONNX model, or only a part of one.",
            "Copy or write the file again.",
        )
    return model


def _check_weights(model: Any, name: str, folder: Path | None) -> None:
    """Each weight has as many bytes as its shape says, in the file or in one of the same folder."""
    import psutil
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    outside = 0
    for tensor in _get_all_tensors(model):
        wanted = _bytes(tensor)
        if uses_external_data(tensor):
            there = _external(tensor, name, folder)
            if there != wanted:
                raise ExportError(
                    f"{name}: the weight {tensor.name!r} has the shape {list(tensor.dims)}, which takes "
                    f"{wanted} bytes, and its file has {there}.",
                    "Copy or write the files again.",
                )
            outside += there
        elif (tensor.raw_data and len(tensor.raw_data) != wanted) or wanted < 0:
            raise ExportError(
                f"{name}: the weight {tensor.name!r} has the shape {list(tensor.dims)}, which takes {wanted} "
                f"bytes, and it has {len(tensor.raw_data)}.",
                "Copy or write the file again.",
            )

    free = psutil.virtual_memory().available
    if outside > free:
        raise ExportError(
            f"{name}: its weights take {size_text(outside)}, and {size_text(free)} of memory are free.",
            "Export it on a larger machine.",
        )


def _bytes(tensor: Any) -> int:
    """What the tensor's shape and type take; -1 for what no tensor can have."""
    import onnx

    kinds = onnx.TensorProto.DataType
    if tensor.data_type not in kinds.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        return -1
    if any(size < 0 for size in tensor.dims):
        return -1
    count = math.prod(int(size) for size in tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        return 0
    kind = kinds.Name(tensor.data_type)
    bits = 4 if kind.endswith("INT4") or kind.startswith("FLOAT4") else 2 if kind.endswith("INT2") else 0
    if bits:
        return (count * bits + 7) // 8
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _external(tensor: Any, name: str, folder: Path | None) -> int:
    """Bytes that a tensor has in a file beside the model."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    if folder is None:
        raise ExportError(
            f"The weight {tensor.name!r} is in another file ({location!r}), which a model in memory has not.",
            "Give the path of the .onnx file.",
        )
    outside = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
    parts = PureWindowsPath(location).parts  # of both kinds of slashes
    file = folder / location
    if not location or outside or ".." in parts or not file.resolve().is_relative_to(folder.resolve()):
        raise ExportError(
            f"{name}: the weight {tensor.name!r} is said to be in {location!r}, which is outside of the "
            "model's folder.",
            "Write it again with its weights beside it: onnx.save_model(…, save_as_external_data=True).",
        )
    if not file.is_file():
        raise ExportError(
            f"{name}: its weights are in {location!r}, which is not there.", f"Copy it into {folder}."
        )
    try:
        offset = int(facts.get("offset", 0))
        length = int(facts.get("length", file.stat().st_size - offset))
    except ValueError:
        offset, length = -1, -1
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ExportError(
            f"{name}: the weight {tensor.name!r} reaches beyond the end of {location!r}.",
            "Copy or write the files again.",
        )
    return length


def _check_structure(model: Any, name: str) -> None:
    own = {(each.domain, each.name) for each in model.functions}
    for node in nodes(model):
        known = node.domain in _DOMAINS or (node.domain, node.op_type) in own
        if not known:
            raise ExportError(
                f"{name} has the operator {node.op_type} of {node.domain}, which onnxruntime has not.",
                "Export the model again without it: it is not among ONNX's own.",
            )
        if node.op_type in _BY_CHANCE or _trains(node):
            raise ExportError(
                f"{name} has the operator {node.op_type}, whose answers are by chance: none can be compared.",
                "Export the model again as it answers, not as it trains.",
            )
    try:
        _checked(model)
    except Exception as error:
        raise ExportError(
            f"{name} is no valid ONNX model: {_first_line(error)}.", "Export the model again."
        ) from error


def _checked(model: Any) -> None:
    """ONNX's own check; of the graph alone, where weights are in files that have been looked at already."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    for each in model.opset_import:
        if each.domain in {"", "ai.onnx"} and each.version > newest:
            raise ExportError(
                f"it is written in opset {each.version}, and the onnx {onnx.__version__} here reads up to "
                f"{newest}"
            )
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = b""
            del tensor.dims[:]
            tensor.dims.append(0)
    for value in (*light.graph.input, *light.graph.output):
        if value.type.WhichOneof("value") == "tensor_type" and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()  # it may be left out, whatever this check says
    onnx.checker.check_model(light)


def _trains(node: Any) -> bool:
    """Whether it is a Dropout, or the like, whose mode of training is on."""
    return any(each.name == "training_mode" and each.i for each in node.attribute)


def nodes(model: Any) -> Iterator[Any]:
    """All nodes, those of branches, loops and functions too."""
    for function in model.functions:
        yield from _inside(function.node)
    yield from _inside(model.graph.node)


def _inside(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _inside(graph.node)


def has_parts(model: Any) -> bool:
    """Whether there are graphs inside of the graph: branches, loops, functions."""
    return bool(model.functions) or sum(1 for _ in nodes(model)) > len(model.graph.node)


def _without_maps(model: Any) -> None:
    """Scores as scikit-learn's exporter gives them, a mapping for each row, become the array they are."""
    import onnx

    graph = model.graph
    for node in [each for each in graph.node if each.op_type == "ZipMap"]:
        given = [each for each in graph.output if each.name == node.output[0]]
        used = any(node.output[0] in other.input for other in graph.node)
        if not given or used:
            continue
        labels = next((each for each in node.attribute if each.name.startswith("classlabels")), None)
        count = len(labels.ints or labels.strings) if labels is not None else 0
        kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [None, count or None])
        given[0].type.CopyFrom(kind)
        made = onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]])
        node.CopyFrom(made)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300].rstrip(".")

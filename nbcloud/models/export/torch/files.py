"""The ONNX file that an exporter wrote: run, made tidy, described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ExportError
from nbcloud.models import onnxfile
from nbcloud.models.signature import Tensor


def session(path: Path, name: str, precision: str) -> Any:
    """A session of onnxruntime.

    Parameters
    ----------
    name : str
        The module's class.

    Raises
    ------
    ExportError
        When onnxruntime can't run the file.
    """
    import onnxruntime

    if precision == "float16":
        # onnxruntime ends the process on some of these.
        code = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
        tried = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
        if tried.returncode < 0:
            raise ExportError(
                f"onnxruntime crashes when it loads {name} in half precision.",
                "Export model.float(), and make it small afterwards.",
            )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if _has_bfloat16(path):
            raise ExportError(
                f"{name} computes in bfloat16 inside, as torch.autocast does, which onnxruntime's CPU can't.",
                "Leave torch.autocast, or what makes bfloat16 of tensors, out of forward for the export.",
            ) from error
        raise ExportError(
            f"onnxruntime does not run what the exporter wrote: {str(error).splitlines()[0][:300]}.",
            "Use other operations, or model.float().",
        ) from error


def _has_bfloat16(path: Path) -> bool:
    import onnx

    nodes = onnxfile.load(path, weights=False).graph.node
    kinds = (
        each.i for node in nodes if node.op_type == "Cast" for each in node.attribute if each.name == "to"
    )
    return onnx.TensorProto.BFLOAT16 in kinds


def opset(model: Any) -> int:
    """The version of ONNX's operators that a model is written in."""
    return int(next(each.version for each in model.opset_import if not each.domain))


def finish(path: Path, inputs: tuple[Tensor, ...], asked: int | None) -> None:
    """Name sizes as the signature does; leave out paths of this machine, and shapes of values inside.

    Raises
    ------
    ExportError
        When the exporter wrote another version of the operators than was asked for.
    """
    import onnx

    model = onnxfile.load(path, weights=False)
    if asked is not None and opset(model) != asked:
        raise ExportError(
            f"torch writes this model in opset {opset(model)}, and can't in opset {asked}.",
            "Leave opset out, or ask for one that this torch writes, such as 18.",
        )
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for each in (*graph.node, *(node for function in model.functions for node in function.node)):
        del each.metadata_props[:]
        each.doc_string = ""
    there = {value.name: value for value in graph.input}
    for each in inputs:
        if each.name not in there:  # the older exporter leaves out what has no influence
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(each.dtype))
            graph.input.append(onnx.helper.make_tensor_value_info(each.name, kind, each.shape))
            continue
        shape = there[each.name].type.tensor_type.shape
        for axis, size in enumerate(each.shape):
            if isinstance(size, str):
                shape.dim[axis].dim_param = size
    path.write_bytes(model.SerializeToString(deterministic=True))


def described(value: Any, shape: tuple[int | str, ...]) -> Tensor:
    """An output, with the names of its sizes.

    Parameters
    ----------
    shape : tuple
        As far as it was seen.
    """
    import onnx

    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    told = tensor.shape.dim
    if len(told) == len(shape):
        shape = tuple(
            f"{value.name}_{axis}" if isinstance(size, int) and dim.dim_param else size
            for axis, (size, dim) in enumerate(zip(shape, told, strict=True))
        )
    return Tensor(value.name, dtype, shape)

"""Operators written in another version: for onnxruntime, for the reference, or as was asked for."""

from __future__ import annotations

from typing import Any

from nbcloud.errors import ExportError
from nbcloud.models.export.onnx.files import has_parts, nodes

_LEAST = 13
"""The oldest version of the operators that is tried: older ones differ in more than their number."""
_CURRENT = 21
"""The version of the operators into which those of `_SINCE` are written."""
_MISREAD = {
    "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13, "BatchNormalization": 15, "Resize": 11, "Upsample": 10,
}  # fmt: skip
"""Operators that the reference implementation computes as of these versions only, whatever it is asked."""
_SINCE = {**_MISREAD, "QuantizeLinear": 19, "DequantizeLinear": 19}
"""With those that it has not in older versions."""
_IR = 10
"""What onnxruntime of the last two years reads."""


def opset(model: Any) -> int:
    """The version of ONNX's operators that a model is written in."""
    return next((int(each.version) for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)


def fitting(model: Any, asked: int | None) -> tuple[Any, list[str]]:
    """The model as onnxruntime reads it, and what was done to it.

    Raises
    ------
    ExportError
        When it is too new and can't be written otherwise, or not in the version that was asked for.
    """
    if asked is not None and asked != opset(model):
        made = _converted(model, asked)
        return _readable(made), [f"Written in opset {asked}; the file was in {opset(model)}."]
    model = _readable(model)
    newest = _newest(opset(model))
    if newest is None:
        return model, []
    made = _readable(_converted(model, newest))
    note = (
        f"Written in opset {newest}, the newest that this onnxruntime reads; the file was in {opset(model)}."
    )
    return made, [note]


def for_reference(model: Any) -> tuple[Any, str]:
    """The model as the reference implementation computes it rightly, and why there is none.

    Operators of old versions, some of which it computes as the new ones are defined, are written in new ones.
    """
    old = opset(model)
    kinds = {node.op_type for node in nodes(model)}
    if not any(old < since for kind, since in _SINCE.items() if kind in kinds):
        return model, ""
    wrong = [kind for kind, since in _MISREAD.items() if kind in kinds and old < since]
    told = f"it has not {wrong[0]} as of opset {old}" if wrong else ""
    if "Hardmax" in wrong:  # which ONNX's converter leaves as it is
        return model, told
    try:
        return _converted(model, _CURRENT), ""
    except ExportError:
        return model, told


def _readable(model: Any) -> Any:
    """The number of the file's format lowered where onnxruntime does not know it yet."""
    import onnx

    if model.ir_version > _IR:
        least = onnx.helper.find_min_ir_version_for(
            [each for each in model.opset_import if each.domain in {"", "ai.onnx"}], ignore_unknown=True
        )
        if not _reads(opset(model), model.ir_version):
            model.ir_version = max(_IR, min(least, _newest_format()))
    return model


def _newest(wanted: int) -> int | None:
    """The newest version that onnxruntime reads; None where it reads this one."""
    if not wanted or _reads(wanted, _IR):
        return None
    return next((each for each in range(wanted - 1, _LEAST, -1) if _reads(each, _IR)), None)


def _newest_format() -> int:
    return next((each for each in range(_IR + 10, _IR, -1) if _reads(21, each)), _IR)


def _reads(version: int, ir: int) -> bool:
    """Whether onnxruntime takes a model of one operator in this version."""
    import onnx
    import onnxruntime

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "tried", [value("x", 1, [1])], [value("y", 1, [1])]
    )
    imports = [onnx.helper.make_opsetid("", version or 21)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime has many, of no common kind
        return False
    return True


def _converted(model: Any, version: int) -> Any:
    import onnxruntime
    from onnx import version_converter

    told = f"The file is in opset {opset(model)}, and can't be written in {version}, "
    here = onnxruntime.__version__
    hint = f"Export the model again with opset {version} or older; here is onnxruntime {here}."
    if has_parts(model):
        raise ExportError(f"{told}because ONNX's converter leaves branches, loops and functions out.", hint)
    try:
        made = version_converter.convert_version(model, version)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{told}as ONNX's converter says: {lines[0][-200:].rstrip('.')}.", hint) from error
    if made.ir_version > _IR and model.ir_version <= _IR:
        made.ir_version = model.ir_version
    return made

"""ONNX files from elsewhere: read with suspicion, and compared with ONNX's own definition of each operator.

::

    files      a path ─► a model whose weights, names and operators can be right; nothing is run yet
    trial      its first run, in a process of its own, which may crash
    versions   operators too new for onnxruntime ─► older ones; too old for the reference ─► newer ones
    sizes      which sizes vary, seen by trying
    answers    ONNX's reference implementation, and onnxruntime without optimisations
    model      what it takes and gives, and who answers for it
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nbcloud import extras
from nbcloud.models.export.onnx.model import ONNXRUNTIME, REFERENCE, OnnxModel
from nbcloud.models.exportable import Options

__all__ = ["OnnxModel", "accepts", "adapt", "attempts"]

attempts = (REFERENCE, ONNXRUNTIME)
"""What the answers are compared with: ONNX's reference implementation. Where that is at fault itself, a user
may ask for onnxruntime's own answers without its optimisations; they are never tried unasked."""


def accepts(model: Any) -> bool:
    """Whether this is an ONNX file, or such a model in memory."""
    if isinstance(model, (str, Path)):
        return Path(model).suffix.lower() == ".onnx"
    onnx = sys.modules.get("onnx")
    return onnx is not None and isinstance(model, onnx.ModelProto)


def adapt(model: Any, sample: Any, options: Options) -> OnnxModel:
    """The model with its sample."""
    for package in ("onnx", "onnxruntime"):
        extras.check(package, "to export ONNX files")
    return OnnxModel(model, sample, options)

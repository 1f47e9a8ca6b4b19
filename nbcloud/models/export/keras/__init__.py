"""Keras models, and what TensorFlow calls a model: functions, modules, SavedModels; or files of them.

::

    files      a path ─► a model, nothing unpickled
    arguments  what a model is called with, and what it gives, by name
    model      Keras models               ┐ both are
    function   TensorFlow's functions     ┘ `Exportable`
    refusals   what no ONNX model can have
    shapes     the sizes of what a model gives
    text       a vocabulary's layers, cut off and written as steps
    layers     what each layer gives, to find the first that differs
    graph      a function ─► ONNX, by tf2onnx
    other      the same in a process of its own, for models of Keras' other backends
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nbcloud import extras
from nbcloud.models.export.keras import files
from nbcloud.models.exportable import Exportable, Options

attempts = ("tf2onnx", "keras")
"""TensorFlow's graph of the model; and Keras' own export, for what that can't do."""

_PURPOSE = "to export Keras and TensorFlow models"


def accepts(model: Any) -> bool:
    """Whether this is a model of Keras or TensorFlow, or a file of one."""
    if isinstance(model, (str, Path)):
        return files.is_one(Path(model))
    return _is_keras(model) or _is_function(model)


def adapt(model: Any, sample: Any, options: Options) -> Exportable:
    """The model with its sample."""
    for package in ("onnx", "tf2onnx"):
        extras.check(package, _PURPOSE)
    if isinstance(model, (str, Path)):
        model = files.load(Path(model))
    if _is_keras(model):
        from nbcloud.models.export.keras.model import KerasModel

        return KerasModel(model, sample, options)
    from nbcloud.models.export.keras.function import FunctionModel

    return FunctionModel(model, sample, options)


def _is_keras(model: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, getattr(keras, "Layer", ()))


def _is_function(model: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not hasattr(tensorflow, "Module"):
        return False
    kinds = (tensorflow.Module, tensorflow.types.experimental.PolymorphicFunction)
    loaded = type(model).__module__.startswith("tensorflow.") and hasattr(model, "signatures")
    return isinstance(model, (*kinds, tensorflow.types.experimental.ConcreteFunction)) or loaded

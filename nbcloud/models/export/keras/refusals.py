"""What Keras models may have that no ONNX model can, told before anything is written."""

from __future__ import annotations

from typing import Any

from nbcloud.errors import ExportError
from nbcloud.models.export.keras import arguments


def refuse_placeholders(answer: Any) -> None:
    """Refuse an answer that is no value."""
    import keras

    if any(isinstance(value, keras.KerasTensor) for _, value in arguments.leaves(answer)):
        raise ExportError(
            "The model answers with a placeholder of Keras' instead of numbers: a function in it uses "
            "a tensor that is from outside of it.",
            "Move what the function does into a layer's call, which is given all that it uses.",
        )


def refuse_state(model: Any) -> None:
    """Refuse layers that remember earlier calls."""
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            raise ExportError(
                f"The layer {layer.name!r} ({type(layer).__name__}) keeps its state from call to call, "
                "which an ONNX model can't.",
                "Build it with stateful=False, or give its state as an input and an output.",
                part=layer.name,
            )


def refuse_bfloat16(model: Any) -> None:
    """Refuse layers that compute in a type which onnxruntime has not."""
    for layer in model._flatten_layers():
        if "bfloat16" in str(layer.compute_dtype):
            raise ExportError(
                f"The layer {layer.name!r} ({type(layer).__name__}) computes in bfloat16, which onnxruntime "
                "can't on processors.",
                "Build the model with keras.config.set_dtype_policy('float32'), and set its weights there.",
                part=layer.name,
            )

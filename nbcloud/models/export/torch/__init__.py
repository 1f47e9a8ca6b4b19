"""torch: any module, whatever its forward takes and gives.

::

    structure   a sample ─► tensors by name ─► forward's arguments; what it returns ─► tensors by name
    sizes       which dimensions vary, and at which other sizes the code may do something else
    program     torch.export and what it assumed of sizes ─► ONNX
    resizing    both at other sizes, and what those make of the outputs' shapes
    script      the older exporter, which records one run
    refusals    why it can't be, and in which line of the user's
"""

from __future__ import annotations

import sys
from typing import Any

from nbcloud import extras
from nbcloud.models.export.torch.model import FIXED, TorchModel
from nbcloud.models.exportable import Options

__all__ = ["TorchModel", "accepts", "adapt", "attempts"]

attempts = ("dynamo", "legacy", f"dynamo, {FIXED}", f"legacy, {FIXED}")
"""``torch.export`` follows the program; the older exporter, TorchScript's, records one run of it. Sizes that
neither can vary are fixed then."""


def accepts(model: Any) -> bool:
    """Whether this is a torch module; those that Keras makes of its own with the torch backend are Keras'."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return False
    keras = sys.modules.get("keras")
    return keras is None or not isinstance(model, keras.layers.Layer)


def adapt(model: Any, sample: Any, options: Options) -> TorchModel:
    """The module with its sample."""
    extras.check("onnxscript", "to export torch models")
    return TorchModel(model, sample, options)

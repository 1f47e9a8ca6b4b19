"""What each layer of a Functional or Sequential model gives, in Keras and in ONNX, to find where they part.

The names inside of a converted graph do not tell its layers, because TensorFlow renames scopes as it traces:
so the model is converted once more, with what each layer gives among the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbcloud.models.export.keras import arguments, graph
from nbcloud.models.signature import Tensor


class Opened:
    """A model that gives what each of its layers gives, in the order of computation.

    Parameters
    ----------
    functional : keras.Model
        One that has a graph of layers.
    """

    def __init__(self, functional: Any) -> None:
        import keras

        found = [
            (node.operation, tensor)
            for depth in sorted(functional._nodes_by_depth, reverse=True)
            for node in functional._nodes_by_depth[depth]
            if not node.is_input
            for _, tensor in arguments.leaves(node.output_tensors)
        ]
        self.steps = {
            f"layer{number:04}": f"the layer {operation.name!r} ({type(operation).__name__})"
            for number, (operation, _) in enumerate(found)
        }
        """What each output is, by its name."""
        self._model = keras.Model(functional.inputs, [tensor for _, tensor in found])
        self._model._adjust_input_rank = lambda values: values

    def __call__(self, *values: Any) -> Sequence[Any]:
        """What the layers give for these inputs."""
        return [value for _, value in arguments.leaves(self._model.call(list(values), training=False))]

    def convert(self, inputs: tuple[Tensor, ...], path: Path, opset: int) -> None:
        """Write it as ONNX."""
        graph.convert(self, inputs, list(self.steps), path, opset)

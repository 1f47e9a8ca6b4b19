"""QuantileTransformer: skl2onnx walks its own graph of it in exponential time, so it is written here."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def stand_in(part: Any) -> Any:
    """What takes the estimator's place."""
    return _stand_in()(part)


@functools.cache
def _stand_in() -> Any:
    from skl2onnx import update_registered_converter
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    from sklearn.base import BaseEstimator, TransformerMixin

    class Quantiles(TransformerMixin, BaseEstimator):
        """A transformer with a converter of nbcloud's."""

        def __init__(self, trained: Any = None) -> None:
            self.trained = trained

        def transform(self, values: Any) -> Any:
            """As the original."""
            return self.trained.transform(values)

    def shape(operator: Any) -> None:
        kind = DoubleTensorType if isinstance(operator.inputs[0].type, DoubleTensorType) else FloatTensorType
        operator.outputs[0].type = kind([None, operator.raw_operator.trained.quantiles_.shape[1]])

    update_registered_converter(Quantiles, "NbcloudQuantiles", shape, _convert)
    return Quantiles


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Where a value lies among the quantiles, from above and from below, and the mean of both.

    They differ where several quantiles are equal, as ``sklearn.preprocessing.QuantileTransformer`` has it.
    """
    from onnx import TensorProto
    from skl2onnx.common.data_types import guess_proto_type

    kind = guess_proto_type(operator.inputs[0].type)
    kind = kind if kind == TensorProto.DOUBLE else TensorProto.FLOAT
    numpy_kind = np.float64 if kind == TensorProto.DOUBLE else np.float32
    quantiles = operator.raw_operator.trained.quantiles_.T.astype(numpy_kind)
    references = operator.raw_operator.trained.references_
    features, count = quantiles.shape
    widths = np.diff(quantiles, axis=1)
    rises = np.where(widths > 0, np.diff(references) / np.where(widths > 0, widths, 1), 0)
    none = np.zeros((features, 1))

    def constant(value: Any) -> str:
        value = np.asarray(value)
        name = str(scope.get_unique_variable_name("quantiles"))
        whole = value.dtype.kind in "iu"
        container.add_initializer(
            name, TensorProto.INT64 if whole else kind, list(value.shape), value.ravel().tolist()
        )
        return name

    def node(operation: str, *inputs: str, version: int = 13, **attributes: Any) -> str:
        output = str(scope.get_unique_variable_name(operation.lower()))
        name = scope.get_unique_operator_name(operation)
        container.add_node(operation, list(inputs), [output], op_version=version, name=name, **attributes)
        return output

    def number_of(comparison: str, version: int) -> str:
        each = node(
            "Cast", node(comparison, constant(quantiles[None]), apart, version=version), to=TensorProto.INT64
        )
        return node("ReduceSum", each, constant(np.array([2])), keepdims=0)

    def at(index: str, values: Any) -> str:
        places = node("Add", index, constant(np.arange(features)[None] * count))
        return node("Gather", constant(np.ravel(values)), places)

    values = node("Cast", operator.inputs[0].full_name, to=kind)
    apart = node("Unsqueeze", values, constant(np.array([2])))
    one, last = constant(np.array([1])), constant(np.array([count - 1]))
    below = node("Max", node("Sub", number_of("LessOrEqual", 12), one), constant(np.array([0])))
    above = node("Min", number_of("Less", 13), last)
    all_references = np.tile(references, (features, 1))

    def along(index: str, slopes: Any) -> str:
        far = node("Sub", values, at(index, quantiles))
        return node("Add", at(index, all_references), node("Mul", far, at(index, slopes)))

    from_below = along(below, np.concatenate([rises, none], axis=1))
    from_above = along(above, np.concatenate([none, rises], axis=1))
    mean = node("Mul", node("Add", from_below, from_above), constant(np.array([0.5])))
    high = node("GreaterOrEqual", values, constant(quantiles[:, -1]), version=12)
    low = node("LessOrEqual", values, constant(quantiles[:, 0]), version=12)
    made = node("Where", high, constant(np.array([1.0])), mean, version=9)
    made = node("Where", low, constant(np.array([0.0])), made, version=9)
    made = node("Where", node("IsNaN", values), values, made, version=9)
    container.add_node(
        "Identity",
        [made],
        operator.output_full_names,
        op_version=13,
        name=scope.get_unique_operator_name("Identity"),
    )

"""Ways to make a model smaller or faster: each one of onnxruntime's own tools."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.models import onnxfile
from nbcloud.models.signature import Feeds

_CALIBRATED = 128
"""Rows that a calibration looks at, at most."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SEVEN_BITS = {"reduce_range": True}
"""Of the weights: x86 without VNNI adds two products of 8 bits in 16, silently wrong where they don't fit."""
_BLOCK = 32
"""Weights that share one scale in ``int4``."""


class NotApplicable(Exception):
    """A way that does nothing for this model; says why."""


@dataclass(frozen=True)
class Source:
    """What is made smaller.

    Parameters
    ----------
    path : Path
        The verified model, in full precision.
    rows : list of dict
        The user's data, one batch of one row after the other, as the model is fed.
    signed : bool
        Whether activations of 8 bits are to be signed.
    """

    path: Path
    rows: list[Feeds]
    signed: bool


def as_it_is(source: Source, path: Path) -> None:
    """Full precision."""
    onnxfile.save(onnxfile.load(source.path), path)


def half(source: Source, path: Path) -> None:
    """Weights and computation in float16; inputs and outputs stay what they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = _plain(source.path)
    _needs(model, _has_float_weights, "has no float32 weights in its graph")
    onnxfile.save(convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True), path)


def dynamic(source: Source, path: Path) -> None:
    """Weights of 8 bits, activations scaled as they come: for MatMul; convolutions become slower."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _needs(
        _plain(source.path),
        _has("MatMul", "Gemm", "LSTM", "GRU", "Attention"),
        "has no matrix products with weights",
    )
    settings = {"per_channel": True, "weight_type": QuantType.QInt8, **_SEVEN_BITS}
    quantize_dynamic(_prepared(source.path, path), path, **settings)


def static(method: str) -> Callable[[Source, Path], None]:
    """Weights per channel and activations of 8 bits, their ranges taken from the user's data."""

    def make(source: Source, path: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        _needs(_plain(source.path), _has(*_PRODUCTS), "has no matrix products or convolutions")
        settings: dict[str, Any] = {
            "quant_format": QuantFormat.QDQ,
            "per_channel": True,
            "activation_type": QuantType.QInt8 if source.signed else QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "calibrate_method": CalibrationMethod[method],
            **_SEVEN_BITS,
        }
        ready = _prepared(source.path, path)
        try:
            quantize_static(ready, path, _reader(source.rows), **settings)
        except Exception:  # noqa: BLE001 - it stumbles over classes, texts, and biases that are not one row
            settings["extra_options"] = {"QDQDisableWeightAdjustForInt32Bias": True}
            quantize_static(ready, path, _reader(source.rows), op_types_to_quantize=[*_PRODUCTS], **settings)

    return make


def four_bits(source: Source, path: Path) -> None:
    """Weights of large matrix products in 4 bits, a scale for each block; for transformers."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = _plain(source.path)
    _needs(model, _has("MatMul", "Gemm"), "has no matrix products with weights")
    ONNXModel(model).replace_gemm_with_matmul()  # as torch writes layers of two dimensions
    quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=_BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    made = quantizer.model.model
    _needs(
        made, lambda graph: any(node.op_type == "MatMulNBits" for node in graph.node), "has no weights for it"
    )
    onnxfile.save(made, path)


WAYS: dict[str, Callable[[Source, Path], None]] = {
    "fp32": as_it_is,
    "fp16": half,
    "int8-dynamic": dynamic,
    "int8-static": static("MinMax"),
    "int8-static-entropy": static("Entropy"),
    "int8-static-percentile": static("Percentile"),
    "int4": four_bits,
}


def make(way: str, source: Source, path: Path) -> None:
    """Write one form of a model.

    Raises
    ------
    NotApplicable
        When there is nothing in it that this way could change, or the tool gives up.
    """
    with _quiet():
        try:
            WAYS[way](source, path)
        except NotApplicable:
            raise
        except Exception as error:
            told = str(error).strip().split("\n")[0] or type(error).__name__
            raise NotApplicable(f"onnxruntime's tool gave up: {told[:200]}") from error
        finally:
            for left in path.parent.glob(f"{path.name}.prepared*"):
                left.unlink()


def _plain(path: Path) -> Any:
    """The model without shapes of values in between, which the tools would take at their word."""
    model = onnxfile.load(path)
    del model.graph.value_info[:]
    return model


def _prepared(path: Path, near: Path) -> Path:
    """The model as the quantisers want it: its shapes inferred, its graph made simple."""
    from onnxruntime.quantization import quant_pre_process

    plain, ready = near.with_name(f"{near.name}.prepared-plain"), near.with_name(f"{near.name}.prepared")
    onnxfile.save(_plain(path), plain)
    try:
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
    except Exception:  # noqa: BLE001 - it helps where it works
        return plain
    return ready


def _reader(rows: list[Feeds]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(rows[:_CALIBRATED])

        def get_next(self) -> Feeds | None:
            return next(self._left, None)

    return Rows()


def _needs(model: Any, has: Callable[[Any], bool], why: str) -> None:
    if not has(model.graph):
        raise NotApplicable(f"the model {why}")


def _has_float_weights(graph: Any) -> bool:
    return any(weight.data_type == 1 and np.prod(weight.dims) > 1 for weight in graph.initializer)


def _has(*operators: str) -> Callable[[Any], bool]:
    def has(graph: Any) -> bool:
        weights = {weight.name for weight in graph.initializer}
        return any(node.op_type in operators and weights.intersection(node.input) for node in graph.node)

    return has


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools speak to their developers."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)

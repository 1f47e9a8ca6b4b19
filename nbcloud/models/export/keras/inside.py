"""What layers give, beside what ONNX has in their place: to tell where the two part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.models import onnxfile

_NEAR = 1e-3


def places(made: Any, layers: Sequence[Any]) -> dict[str, str]:
    """For each layer, by its name, the last value of the ONNX model that stands in its scope."""
    names = {layer.name for layer in layers}
    given = {each.name for each in made.graph.output}
    last: dict[str, str] = {}
    for node in made.graph.node:
        layer = next((part for part in node.name.split("/") if part in names), "")
        if layer and node.output[0] not in given:
            last.pop(layer, None)
            last[layer] = node.output[0]
    return last


def onnx_values(path: Path, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Values from the inside of an ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    seen = onnxfile.with_outputs(onnxfile.load(path), names)
    session = onnxruntime.InferenceSession(
        seen.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))


def parted(pairs: Sequence[tuple[str, Any, Any]]) -> Iterator[tuple[str, Any]]:
    """Of the layers' values those behind the last that ONNX has as well, in ONNX' layout.

    A layer that was fused with its neighbour has no value of its own in ONNX: it differs, the next agrees.
    """
    told = [(name, _in_layout(value, found), found) for name, value, found in pairs]
    compared = [(name, value, found) for name, value, found in told if value is not None]
    agree = [place for place, (_, value, found) in enumerate(compared) if _near(value, found)]
    for name, value, _ in compared[agree[-1] + 1 if agree else 0 :]:
        yield name, value


def _in_layout(value: Any, found: Any) -> Any:
    """ONNX has images with their channels first, or as they were; None where it is neither."""
    if value.shape == found.shape and (value.ndim < 3 or _near(value, found)):
        return value
    turned = np.moveaxis(value, -1, 1) if value.ndim > 2 else value
    if turned.shape == found.shape and (value.shape != found.shape or _near(turned, found)):
        return turned
    return value if value.shape == found.shape else None


def _near(value: Any, found: Any) -> bool:
    scale = float(np.max(np.abs(value), initial=0, where=np.isfinite(value)))
    return bool(np.allclose(value, found, rtol=_NEAR, atol=_NEAR * scale, equal_nan=True))

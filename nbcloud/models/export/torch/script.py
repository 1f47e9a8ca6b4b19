"""The older exporter, TorchScript's: it records one run, and can't follow what the code decides."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nbcloud.models.export.torch.refusals import traced
from nbcloud.models.signature import Tensor

NEWEST = 20


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No graphs on the standard output of the process, where torch prints those that it can't write."""
    import torch

    printing = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = printing


def write(
    module: Any,
    tensors: Sequence[Any],
    path: Path,
    inputs: Sequence[Tensor],
    output_names: Sequence[str],
    opset: int | None,
    name: str,
) -> None:
    """Record a run of the module.

    Raises
    ------
    ExportError
        When the code decided something by values on the way.
    """
    import torch

    axes = {
        each.name: {axis: size for axis, size in enumerate(each.shape) if isinstance(size, str)}
        for each in inputs
    }
    with torch.no_grad(), _silent(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.onnx.export(
            module,
            tuple(tensors),
            str(path),
            dynamo=False,
            input_names=[each.name for each in inputs],
            output_names=list(output_names),
            dynamic_axes={key: value for key, value in axes.items() if value},
            opset_version=opset or NEWEST,
        )
    if refused := traced(name, caught):
        raise refused

"""Where a model is to run: what is fast there, and what there is not."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from nbcloud.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Parameters
    ----------
    ways : tuple of str
        Forms worth a try there, by the names in `nbcloud.models.optimize.ways`.
    providers : tuple of str
        onnxruntime's execution providers there, best first.
    threads : int
        For which latency is measured; 0 for as many as there are processors.
    signed : bool
        Whether activations of 8 bits are fast when they are signed (ARM), or unsigned (x86).
    note : str
        What the user must know of it.
    """

    name: str
    ways: tuple[str, ...]
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 1
    signed: bool = False
    note: str = ""


_INT8 = ("int8-dynamic", "int8-static", "int8-static-entropy", "int8-static-percentile")
_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")

TARGETS = {
    target.name: target
    for target in (
        Target("cpu-x86", ("fp32", "fp16", *_INT8, "int4"), threads=0),
        Target("edge-arm64", ("fp32", "fp16", *_INT8, "int4"), signed=True),
        Target(
            "edge-arm32",
            ("fp32", *_INT8),
            signed=True,
            note="PyPI has no onnxruntime for 32-bit ARM: build it, or take it from the device's maker.",
        ),
        Target("jetson", ("fp32", "fp16", "int8-static"), _GPU, signed=True,
               note="onnxruntime for Jetson comes from NVIDIA, not from PyPI."),
        Target("web", ("fp32", "fp16", "int8-dynamic", "int4"),
               note="onnxruntime-web runs float16 on WebGPU only, not on WebAssembly."),
        Target("cloud-gpu", ("fp32", "fp16", "int8-static"), _GPU, threads=0),
    )
}  # fmt: skip
_SHORT = {"edge": "edge-arm64", "cpu": "cpu-x86", "gpu": "cloud-gpu"}


def target(name: str) -> Target:
    """The target of that name; ``edge``, ``cpu`` and ``gpu`` are the usual ones.

    Raises
    ------
    UsageError
        Names the nearest.
    """
    found = TARGETS.get(_SHORT.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, TARGETS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"There is no target {name!r}.", f"{hint}There are: {', '.join(TARGETS)}.")
    return found

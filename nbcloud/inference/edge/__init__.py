"""Bundles on devices: checked before use, run with onnxruntime and numpy alone.

::

    model       load(bundle) ─► self-test ─► predict
    inputs      files, folders, lines, a camera: what models are fed
    store       the device's folder of bundles: one is active, the one before it is kept
    telemetry   what is seen on the device, queued on disk until there is a link
    server      the Open Inference Protocol, on this device
    __main__    the same from a shell

These files run on Python 3.9, and travel in every bundle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["EdgeModel", "load"]

if TYPE_CHECKING:
    from nbcloud.inference.edge.model import EdgeModel, load


def __getattr__(name: str) -> Any:
    # Not at once: without numpy, the command line has a sentence to say.
    if name in __all__:
        from nbcloud.inference.edge import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

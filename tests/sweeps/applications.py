"""Every architecture of ``keras.applications``, with random weights, exported.

    python -m tests.sweeps.applications [--processes 2] [NAME …]

Pictures are as small as an architecture takes them.
"""

from __future__ import annotations

import inspect
import os
import sys

import numpy as np

from tests.sweeps import sweep

SIDES = (64, 96, 128, 224, 331)


def architectures() -> list[str]:
    """Their names."""
    import keras

    found = keras.applications.__dict__.items()
    return sorted(name for name, each in found if name[0].isupper() and inspect.isfunction(each))


def cases(name: str) -> sweep.Cases:
    """The smallest of `SIDES` that it takes."""

    def make() -> tuple[object, object]:
        import keras

        keras.utils.set_random_seed(0)
        refused: Exception | None = None
        for side in SIDES:
            try:
                made = getattr(keras.applications, name)(
                    weights=None, input_shape=(side, side, 3), classes=10
                )
            except ValueError as error:
                refused = error
                continue
            return made, np.random.default_rng(0).random((2, side, side, 3), dtype="float32") * 255
        raise refused or ValueError("no size")

    yield "", make


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(sweep.main(__doc__ or "", architectures(), cases))

"""The global generators of random numbers: how they begin, and how far they are."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

from nbcloud.imported import when_imported


def begin(seed: int) -> None:
    """Have Python's and numpy's generators, which otherwise begin anywhere, begin by a seed.

    torch's begins alike in every process, and Keras draws its seeds from Python's.

    Parameters
    ----------
    seed : int
        Of 32 bits.
    """
    random.seed(seed)
    when_imported("numpy.random", lambda module: module.seed(seed))


def state() -> dict[str, Any]:
    """Of all generators that are loaded."""
    found: dict[str, Any] = {"random": random.getstate()}
    if numpy := sys.modules.get("numpy"):
        found["numpy"] = numpy.random.get_state()
    if torch := sys.modules.get("torch"):
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def go_on(state: Mapping[str, Any]) -> None:
    """Have the generators go on as they would have that had this ``state``."""
    random.setstate(state["random"])
    if "numpy" in state:
        import numpy as np

        np.random.set_state(state["numpy"])
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            torch.cuda.set_rng_state_all(state["cuda"])

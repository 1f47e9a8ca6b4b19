"""How a loaded model reads what it is given: worked out once, because small models answer in microseconds.

Runs on devices, too: Python 3.9 and numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbcloud.models import steps
from nbcloud.models.signature import TEXT, Feeds, Signature


class Reader:
    """Makes what the ONNX model is fed.

    Parameters
    ----------
    preprocessing : list of dict
        Steps before the graph (see `nbcloud.models.steps`).
    signature : Signature
        Of the graph.
    """

    def __init__(self, preprocessing: Sequence[Mapping[str, Any]], signature: Signature) -> None:
        self._prepare = steps.prepared(preprocessing)
        self.takes = Signature(steps.outer(preprocessing, signature.inputs), signature.outputs)
        """What the whole model takes and gives."""
        self._name = ""
        if len(self.takes.inputs) != 1 or preprocessing or self.takes.inputs[0].dtype in {TEXT, "bfloat16"}:
            return
        one = self.takes.inputs[0]
        self._name = one.name
        self._dtype = np.dtype(one.dtype)
        self._rank = len(one.shape)
        self._fixed = [(axis, size) for axis, size in enumerate(one.shape) if isinstance(size, int)]
        self._finite = one.finite and self._dtype.kind == "f"

    def __call__(self, data: Any) -> Feeds:
        """What the ONNX model is fed for ``data`` (see `Signature.feeds`)."""
        if self._name and type(data) is np.ndarray and data.dtype == self._dtype and self._fits(data):
            return {self._name: data}
        return self._prepare(self.takes.feeds(data))

    def _fits(self, array: Any) -> bool:
        """Whether the one array that is given can be fed as it is; else the long way tells why not."""
        shape = array.shape
        if len(shape) != self._rank:
            return False
        for axis, size in self._fixed:
            if shape[axis] != size:
                return False
        # One pass without a temporary array: a sum of squares is NaN only where there is NaN.
        return not self._finite or (square := np.vdot(array, array)) == square

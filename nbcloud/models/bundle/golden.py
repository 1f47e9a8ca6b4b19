"""Golden samples: arrays as members of a bundle, and two answers compared.

Runs on devices: Python 3.9 and numpy.
"""

from __future__ import annotations

import io
import json
import math
import re
from typing import Any

import numpy as np

_START = 10
"""Where the header of an npy file begins; its length is in the two bytes before."""
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|][a-zA-Z][1-9]\d{0,2})', 'fortran_order': False, "
    rb"'shape': \(([\d, ]{0,400})\), \} *\n",
    re.DOTALL,
)
_LEAST = 1e-3
"""Of the largest magnitude in the whole output: columns smaller than that are measured against it."""


def to_member(array: Any) -> tuple[str, bytes]:
    """How a name for this array ends, and its bytes; texts as JSON, because nothing is pickled."""
    array = np.asarray(array)
    if array.dtype.kind in "OUS":
        document = {"shape": list(array.shape), "texts": [str(each) for each in array.ravel().tolist()]}
        return ".json", json.dumps(document, ensure_ascii=False).encode()
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
    return ".npy", file.getvalue()


def from_member(name: str, content: bytes) -> Any:
    """The array of `to_member`.

    Raises
    ------
    ValueError
        When it is none.
    """
    if name.endswith(".json"):
        try:
            document = json.loads(content)
            return np.array(document["texts"], dtype=object).reshape(document["shape"])
        except (RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from None
    # numpy's own reader does more than is needed for what `to_member` writes, and fails in more ways.
    found = _HEADER.match(content)
    if found is None or found.end() != _START + int.from_bytes(content[_START - 2 : _START], "little"):
        raise ValueError("its header is not as it must be")
    dtype = np.dtype(found.group(1).decode())
    shape = [int(size) for size in found.group(2).split(b",") if size.strip()]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - found.end():
        raise ValueError("it has another size than it says")
    return np.frombuffer(content, dtype, offset=found.end()).reshape(shape).copy()


def difference(found: Any, expected: Any, tolerance: float) -> str:
    """Where two answers differ by more than rounding; empty where they don't.

    Parameters
    ----------
    tolerance : float
        For fractions; relative to the largest magnitude in the column. Other types must be the same.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return f"shape {list(found.shape)} instead of {list(expected.shape)}"
    if not found.size:
        return ""
    if found.dtype.kind not in "fc" or expected.dtype.kind not in "fc":
        wrong = np.asarray([str(a) != str(b) for a, b in zip(found.ravel(), expected.ravel())])
        return _first(wrong.reshape(found.shape), found, expected)
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    sizes = np.where(finite, np.abs(expected), 0)
    columns = sizes.max(axis=tuple(range(sizes.ndim - 1)), keepdims=True) if sizes.ndim > 1 else sizes.max()
    allowed = tolerance * np.maximum(columns, max(_LEAST * float(sizes.max()), 1e-30))
    with np.errstate(invalid="ignore"):
        near = finite & np.isfinite(found) & (np.abs(found - expected) <= allowed)
    return _first(~(same | near), found, expected)


def _first(wrong: Any, found: Any, expected: Any) -> str:
    if not wrong.any():
        return ""
    place = tuple(int(index) for index in np.argwhere(wrong)[0]) if wrong.ndim else ()
    told = f"at {list(place)} " if place else ""
    return f"{told}{found[place]!s} instead of {expected[place]!s}"

"""A few words on a value, without importing its package and without running its ``repr``."""

from __future__ import annotations

import sys
from typing import Any

from nbcloud.wording import counted


def describe(value: Any) -> dict[str, Any]:
    """Type, size and shape of a value, as plain data.

    Returns
    -------
    dict
        ``type`` (qualified name), ``nbytes`` (int or None, a cheap estimate), ``text`` (such as
        ``"1,000 x 12 float64"``, may be empty).
    """
    kind = type(value)
    module = kind.__module__
    name = (
        kind.__qualname__
        if module in {"builtins", "__main__"}
        else f"{module.partition('.')[0]}.{kind.__qualname__}"
    )
    return {"type": name, "nbytes": _nbytes(value), "text": _shape(value)}


def _nbytes(value: Any) -> int | None:
    try:
        nbytes = getattr(value, "nbytes", None)
        if isinstance(nbytes, int):
            return nbytes
        if hasattr(value, "memory_usage"):
            usage = value.memory_usage(index=True, deep=False)
            return int(usage if isinstance(usage, int) else usage.sum())
        if hasattr(value, "element_size") and hasattr(value, "nelement"):
            return int(value.element_size() * value.nelement())
        return int(sys.getsizeof(value))
    except Exception:  # noqa: BLE001 - a foreign object's own code; its size is not worth an error
        return None


def _shape(value: Any) -> str:
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape):
            dtype = getattr(value, "dtype", "")
            return f"{' x '.join(f'{size:,}' for size in shape)} {dtype}".strip()
        if isinstance(value, list | tuple | dict | set | frozenset | str | bytes):
            return counted(len(value), "character" if isinstance(value, str | bytes) else "item")
    except Exception:  # noqa: BLE001
        return ""
    return ""

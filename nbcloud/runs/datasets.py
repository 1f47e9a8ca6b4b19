"""What can be said of a dataset without keeping it: its hash and its schema."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbcloud.errors import UsageError

_BLOCK = 2**20


def dataset_facts(data: Any) -> dict[str, Any]:
    """``kind``, ``hash``, and ``rows`` and ``schema`` where there are any.

    The hash is a SHA-256 over the content and the schema, so that equal data has the same everywhere.

    Raises
    ------
    UsageError
        When nobody knows how to read it, or its content has no bytes that could be hashed.
    """
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if isinstance(data, str | os.PathLike):
        return _file_facts(Path(data))
    if isinstance(data, Mapping):
        parts = {str(key): dataset_facts(each) for key, each in data.items()}
        digest = _digest(*(f"{key}={facts['hash']}".encode() for key, facts in sorted(parts.items())))
        return {"kind": "mapping", "hash": digest, "schema": {key: f["schema"] for key, f in parts.items()}}
    if pandas is not None and isinstance(data, pandas.DataFrame | pandas.Series):
        return _table_facts(data, pandas)
    if numpy is not None and isinstance(data, numpy.ndarray):
        return _array_facts(data, numpy)
    if hasattr(data, "to_pandas"):
        return dataset_facts(data.to_pandas())
    raise UsageError(
        f"A {type(data).__name__} can't be logged as a dataset.",
        "Give a table of pandas, an array of numpy, a dict of these, or the path of a file.",
    )


def _file_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r} to log.", f"Relative paths begin at: {Path.cwd()}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    schema = {"path": str(path.absolute()), "bytes": path.stat().st_size}
    return {"kind": "file", "hash": digest, "schema": schema}


def _table_facts(data: Any, pandas: Any) -> dict[str, Any]:
    is_table = isinstance(data, pandas.DataFrame)
    columns = list(data.columns) if is_table else [data.name]
    types = list(map(str, data.dtypes)) if is_table else [str(data.dtype)]
    schema = [{"name": str(name), "type": kind} for name, kind in zip(columns, types, strict=True)]
    try:
        rows = pandas.util.hash_pandas_object(data).to_numpy()
    except TypeError as error:
        raise UsageError(
            f"A column of this table holds what has no hash ({error}).",
            "Log the file that it was read from, or the table without that column.",
        ) from None
    digest = _digest(repr(schema).encode(), rows.tobytes())
    return {"kind": "table", "hash": digest, "rows": len(data), "schema": schema}


def _array_facts(data: Any, numpy: Any) -> dict[str, Any]:
    if data.dtype.hasobject:
        raise UsageError(
            "An array of objects has no content that could be hashed.", "Make it a table of pandas first."
        )
    schema = {"shape": list(data.shape), "type": data.dtype.newbyteorder("=").name}
    content = numpy.ascontiguousarray(data, data.dtype.newbyteorder("<"))
    digest = hashlib.sha256(repr(schema).encode())
    view = content.reshape(-1).view(numpy.uint8)
    for start in range(0, view.size, _BLOCK):
        digest.update(view[start : start + _BLOCK])
    rows = data.shape[0] if data.ndim else 1
    return {"kind": "array", "hash": digest.hexdigest(), "rows": rows, "schema": schema}


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()

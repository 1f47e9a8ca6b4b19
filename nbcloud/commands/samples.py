"""Rows of data from a file, for the commands that take some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.models.tables import names_columns


def read_sample(path: Path) -> Any:
    """Arrays or a table of a file: ``.npy``, ``.npz``, ``.csv``, ``.parquet``, ``.json`` (lists).

    Raises
    ------
    UsageError
        When there is no such file, or it can't be read as that.
    """
    import json

    import numpy as np

    readers: dict[str, Callable[[Path], Any]] = {
        ".npy": lambda file: np.load(file, allow_pickle=False),
        ".npz": lambda file: dict(np.load(file, allow_pickle=False)),
        ".csv": _csv,
        ".parquet": lambda file: _pandas().read_parquet(file),
        ".json": lambda file: np.asarray(json.loads(file.read_text())),
    }
    if path.suffix not in readers:
        raise UsageError(
            f"{path}: a sample of that kind can't be read.", f"Give one of: {', '.join(readers)}."
        )
    try:
        return readers[path.suffix](path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as {path.suffix}: {error}.") from None


def _csv(path: Path) -> Any:
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next(filter(None, csv.reader(file)), [])
    if names_columns(first):
        return _pandas().read_csv(path)
    return _pandas().read_csv(path, header=None).to_numpy()


def _pandas() -> Any:
    from nbcloud.extras import check

    check("pandas", "to read tables")
    import pandas

    return pandas

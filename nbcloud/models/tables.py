"""Tables as text (CSV): one rule for what names the columns and what is missing, on devices and elsewhere.

Runs on devices, too: Python 3.9 only.
"""

from __future__ import annotations

from collections.abc import Sequence

RULE = "a .csv's first row names the columns, unless it is numbers other than 0, 1, 2, …"
"""For people; pandas numbers the columns of a table that has no names for them."""

MISSING = frozenset(
    (
        *("", "NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NULL", "null", "None"),
        *("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    )
)
"""Cells that have no value, as pandas reads them, whose tables most models were trained on."""


def names_columns(row: Sequence[str]) -> bool:
    """Whether the first row of a table is the names of its columns (`RULE`)."""
    return not all(map(_is_number, row)) or list(row) == [str(place) for place in range(len(row))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell in MISSING
    return True

"""What a model takes and gives: names, types, shapes, and what they mean.

Runs on devices, too: Python 3.9 and numpy only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nbcloud.errors import SchemaError

Feeds = dict[str, Any]
"""Arrays by the names of a model's inputs, or of its outputs."""

TEXT = "str"
"""The type of texts; every other is numpy's name, and ``bfloat16``."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model.

    Parameters
    ----------
    name : str
    dtype : str
        numpy's name of the type (``float32``), ``bfloat16``, or ``str``.
    shape : tuple of int or str
        A text names a dimension whose size varies.
    columns : tuple of str
        Names of what stands side by side in the last dimension, where a table was the sample.
    labels : tuple
        For an output of classes: the classes. For one of scores: the class of each place in the last
        dimension.
    finite : bool
        Whether NaN is refused: the model does not take it, or would answer wrongly.
    meaning, unit : str
        For people.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    columns: tuple[str, ...] = ()
    labels: tuple[int | str, ...] = ()
    finite: bool = False
    meaning: str = ""
    unit: str = ""

    def __str__(self) -> str:
        shape = ", ".join(str(size) for size in self.shape)
        return f"{self.name}: {self.dtype}[{shape}]"

    def to_json(self) -> dict[str, Any]:
        """Plain values, without those that say nothing."""
        plain = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
        needed = ("name", "dtype", "shape")
        return {key: value for key, value in plain.items() if value or key in needed}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tensor:
        """The tensor of `to_json`; keys of a later nbcloud are left out."""
        known: dict[str, Any] = {}
        for key in cls.__dataclass_fields__:
            if key in document:
                value = document[key]
                known[key] = tuple(value) if isinstance(value, list) else value
        return cls(**known)

    def accept(self, value: Any) -> Any:
        """The array that the model takes for ``value``.

        Raises
        ------
        SchemaError
            When type or shape can't be right; says which input, and what was expected.
        """
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        if array.dtype != self.dtype or self.dtype == TEXT:
            array = self._cast(array)
        if len(array.shape) != len(self.shape):
            count = len(array.shape)
            told = f"has {count} dimension{'' if count == 1 else 's'}, {list(array.shape)}"
            column = count == 1 and self.shape[1:] == (1,)
            raise self._refused(told, " Give it as a column: array.reshape(-1, 1)." if column else "")
        for size, wanted in zip(array.shape, self.shape):
            if isinstance(wanted, int) and size != wanted:
                raise self._refused(f"has the shape {list(array.shape)}")
        if self.finite and array.dtype.kind == "f" and np.isnan(array).any():
            raise self._refused("has NaN, which this model does not take")
        return array

    def _cast(self, array: Any) -> Any:
        if self.dtype == TEXT:
            flat = array.ravel().tolist()
            wrong = [item for item in flat if not isinstance(item, str)]
            if wrong:
                raise self._refused(f"has {wrong[0]!r}, which is no text")
            return array if array.dtype == object else array.astype(object)
        if array.dtype.kind in "OUS":
            raise self._refused(f"has texts or mixed values ({array.dtype})")
        wanted = _dtype(self.dtype)
        if array.dtype.kind in "fV" and wanted.kind in "iub":
            raise self._refused(f"has fractions ({array.dtype})")
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        if array.dtype.kind in "iu" and wanted.kind in "iub" and not np.array_equal(cast, array):
            raise self._refused(f"has values that do not fit into {self.dtype}")
        if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
            raise self._refused(f"has values that do not fit into {self.dtype}")
        return cast

    def _refused(self, what: str, hint: str = "") -> SchemaError:
        return SchemaError(
            f"The input {self.name!r} {what}.", f"The model takes {self}.{hint}", input=self.name
        )


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes  # comes with onnx

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@dataclass(frozen=True)
class Signature:
    """All inputs and outputs of a model."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "inputs": [each.to_json() for each in self.inputs],
            "outputs": [each.to_json() for each in self.outputs],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Signature:
        """The signature of `to_json`."""
        return cls(
            tuple(Tensor.from_json(each) for each in document["inputs"]),
            tuple(Tensor.from_json(each) for each in document["outputs"]),
        )

    def feeds(self, data: Any) -> Feeds:
        """What the model is fed for ``data``.

        Parameters
        ----------
        data : array, DataFrame, mapping or list
            One array for a model of one input; a table, whose columns are found by their names; arrays by
            the inputs' names; or a tuple of arrays in the inputs' order.

        Raises
        ------
        SchemaError
            Names the input or the column that is missing, unknown, or not as it must be.
        """
        if hasattr(data, "columns") and hasattr(data, "dtypes"):
            return self._of_table(data)
        if isinstance(data, Mapping):
            return self._of_names(data)
        if isinstance(data, tuple) and len(self.inputs) > 1:
            if len(data) != len(self.inputs):
                raise SchemaError(
                    f"{len(data)} arrays were given, and the model has {len(self.inputs)} inputs.",
                    f"It takes: {', '.join(map(str, self.inputs))}.",
                )
            return {each.name: each.accept(value) for each, value in zip(self.inputs, data)}
        if len(self.inputs) != 1:
            raise SchemaError(
                f"One array was given, and the model has {len(self.inputs)} inputs.",
                f"Give them by name: {{{', '.join(repr(each.name) + ': …' for each in self.inputs)}}}.",
            )
        return {self.inputs[0].name: self.inputs[0].accept(data)}

    def _of_names(self, data: Mapping[str, Any]) -> Feeds:
        names = [each.name for each in self.inputs]
        for name in data:
            if name not in names:
                raise SchemaError(
                    f"The model has no input {name!r}.", _nearest(str(name), names), input=str(name)
                )
        feeds = {}
        for each in self.inputs:
            if each.name not in data:
                raise SchemaError(
                    f"The input {each.name!r} is missing.", f"The model takes {each}.", input=each.name
                )
            feeds[each.name] = each.accept(data[each.name])
        return feeds

    def _of_table(self, table: Any) -> Feeds:
        """A table's columns become the inputs of their names, or stand side by side in the one input."""
        given = [str(column) for column in table.columns]
        one = self.inputs[0] if len(self.inputs) == 1 else None
        if one is not None and not one.columns and len(one.shape) == 2:
            return {one.name: one.accept(table.to_numpy())}
        wanted = list(one.columns) if one is not None and one.columns else [each.name for each in self.inputs]
        for column in wanted:
            if column not in given:
                raise SchemaError(
                    f"The column {column!r} is missing.",
                    _nearest(column, given, "The table has"),
                    column=column,
                )
        columns = {column: table.iloc[:, given.index(column)] for column in wanted}
        if one is not None and one.columns:
            stacked = [_column(one, name, series) for name, series in columns.items()]
            return {one.name: one.accept(np.stack(stacked, axis=-1))}
        return {
            each.name: each.accept(_column(each, each.name, columns[each.name]).reshape(-1, 1))
            for each in self.inputs
        }


def _column(tensor: Tensor, name: str, series: Any) -> Any:
    """A column as the array that an input takes; what is missing in numbers is NaN."""
    try:
        if tensor.dtype == TEXT:
            values = series.to_numpy(dtype=object)
            wrong = [item for item in values if not isinstance(item, str)]
            if wrong:
                raise SchemaError(
                    f"The column {name!r} has {wrong[0]!r}, which is no text.",
                    "Fill or drop such rows.",
                    column=name,
                )
            return values
        wanted = _dtype(tensor.dtype)
        missing = {"na_value": np.nan} if series.isna().any() and wanted.kind == "f" else {}
        values = series.to_numpy(dtype=wanted, **missing)
        if wanted.kind in "iub" and not bool((series == values).all()):
            raise ValueError("some values are no whole numbers, or too large")
        return values
    except (ValueError, TypeError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(
            f"The column {name!r} ({series.dtype}) is not of the type {tensor.dtype}: {error}.",
            f"The model takes {tensor}.",
            column=name,
        ) from None


def _nearest(name: str, names: Any, told: str = "It has") -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"{told}: {', '.join(names)}."

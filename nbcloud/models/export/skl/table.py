"""A sample: which inputs the ONNX model has, and how their values become what the estimator takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nbcloud.errors import ExportError, UsageError
from nbcloud.models.exportable import Options
from nbcloud.models.signature import TEXT, Feeds, Tensor

_HINT = "Give numbers and texts columns of their own, in a DataFrame; fill what is missing."


@dataclass(frozen=True)
class Sample:
    """What the estimator was given, as arrays.

    Parameters
    ----------
    columns : tuple
        The table's, as they are named there; empty for an array.
    apart : bool
        Whether each column is an input of its own.
    """

    inputs: tuple[Tensor, ...]
    feeds: Feeds
    columns: tuple[Any, ...] = field(default=())
    apart: bool = False

    def native(self, feeds: Feeds) -> Any:
        """The feeds as the estimator takes them."""
        values = [feeds[each.name] for each in self.inputs]
        if not self.columns:
            return values[0]
        import pandas as pd

        if not self.apart:
            return pd.DataFrame(values[0], columns=list(self.columns))
        told = {place: value.reshape(-1) for place, value in enumerate(values)}
        return pd.DataFrame(told).set_axis(list(self.columns), axis=1)


def read(sample: Any, options: Options, *, by_column: bool) -> Sample:
    """The inputs that a sample tells of.

    Parameters
    ----------
    by_column : bool
        Whether the estimator chooses columns by their names, which are inputs then.

    Raises
    ------
    ExportError
        Names the column that ONNX can't have.
    """
    if isinstance(sample, Mapping):
        sample = _table(sample)
    if hasattr(sample, "columns") and hasattr(sample, "dtypes"):
        found = _of_table(sample, by_column=by_column)
    else:
        found = _of_array(sample)
    rows = len(next(iter(found.feeds.values()))) if found.feeds else 0
    if not rows:
        raise ExportError("The sample is empty.", "Give a few rows of what the model takes.")
    return _renamed(found, options)


def _table(columns: Mapping[Any, Any]) -> Any:
    """A table of columns that are given by their names, each a row of values, or a column."""
    from nbcloud import extras

    extras.check("pandas", "to give columns by their names")
    import pandas as pd

    flat = {}
    for name, values in columns.items():
        array = np.asarray(values)
        if array.ndim != 1 and array.shape[1:] != (1,):
            raise ExportError(
                f"The column {name!r} of the sample has the shape {list(array.shape)}.",
                "Give each column as a list or array of one dimension.",
            )
        flat[name] = array.reshape(-1)
    lengths = {name: len(values) for name, values in flat.items()}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise ExportError(
            f"The sample's columns have different numbers of rows: {told}.", "Give all of the same rows."
        )
    return pd.DataFrame(flat)


def _of_table(table: Any, *, by_column: bool) -> Sample:
    columns = tuple(table.columns)
    names = [str(column) for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ExportError(
            f"The sample has two columns of the name {twice!r}.", "Give each column a name of its own."
        )
    arrays = {name: _column(name, table.iloc[:, place]) for place, name in enumerate(names)}
    if not by_column and all(array.dtype.kind in "fiub" for array in arrays.values()):
        values = np.stack(_alike(list(arrays.values())), axis=1) if arrays else np.zeros((0, 0))
        tensor = Tensor("X", _type_of(values), ("batch", len(names)), columns=tuple(names))
        return Sample((tensor,), {"X": values}, columns)
    inputs = tuple(Tensor(name, _type_of(array), ("batch", 1)) for name, array in arrays.items())
    return Sample(inputs, {name: array.reshape(-1, 1) for name, array in arrays.items()}, columns, apart=True)


def _alike(arrays: list[Any]) -> list[Any]:
    """Columns of one type: True and False beside numbers are 1 and 0."""
    kinds = {array.dtype.kind for array in arrays}
    return arrays if len(kinds) == 1 else [array.astype(np.float64) for array in arrays]


def _of_array(sample: Any) -> Sample:
    if hasattr(sample, "toarray"):
        sample = sample.toarray()
    try:
        array = np.asarray(sample)
    except ValueError as error:
        raise ExportError(
            f"The sample is no table: {error}.", "Give an array of rows and columns, or a DataFrame."
        ) from None
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype.kind not in "fiubO" or not array.ndim:
        raise ExportError(
            f"The sample is of the type {array.dtype}, with {array.ndim} dimensions, which no estimator of "
            "numbers or texts takes.",
            "Give an array of rows and columns, or a DataFrame.",
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return Sample((Tensor("X", _type_of(array), ("batch", *array.shape[1:])),), {"X": array})


def _renamed(sample: Sample, options: Options) -> Sample:
    names = options.input_names
    if names is None:
        return sample
    given = [each.name for each in sample.inputs]
    if len(names) != len(given) or len(set(names)) != len(given):
        raise UsageError(
            f"{len(set(names))} names for inputs were given, and the model has {len(given)}.",
            f"They are in this order: {', '.join(given)}.",
        )
    inputs = tuple(replace(each, name=name) for each, name in zip(sample.inputs, names, strict=True))
    return replace(sample, inputs=inputs, feeds=dict(zip(names, sample.feeds.values(), strict=True)))


def _type_of(array: Any) -> str:
    """The type of an input: whole numbers count as numbers, since estimators compute with fractions."""
    if array.dtype.kind in "OUS":
        wrong = next((item for item in array.ravel().tolist() if not isinstance(item, str)), None)
        if wrong is None and None not in array.ravel().tolist():
            return TEXT
        if isinstance(wrong, dict):
            raise ExportError(
                "The model takes dictionaries, which ONNX has not.",
                "Make columns of them before (pandas.DataFrame), and export the steps behind.",
            )
        raise ExportError(
            f"The sample has a {type(wrong).__name__} among texts, which ONNX can't have in one column.",
            _HINT,
        )
    return "bool" if array.dtype.kind == "b" else "int64" if array.dtype.kind in "iu" else "float64"


def _column(name: str, series: Any) -> Any:
    """A column as an array that ONNX can have; what is missing among numbers is NaN."""
    kind = getattr(series.dtype, "kind", "O")
    if kind in "mM":
        raise ExportError(
            f"The column {name!r} has times ({series.dtype}), which ONNX has not.",
            "Make numbers of them before, such as days since a date or the hour, and train on those.",
        )
    if kind in "fiub":
        missing = bool(series.isna().any())
        return series.to_numpy(dtype=np.float64, na_value=np.nan) if missing else _plain(series.to_numpy())
    values = series.to_numpy(dtype=object)
    if series.dtype.name == "category" and all(isinstance(each, (int, float)) for each in values):
        return _plain(np.asarray(values.tolist()))
    wrong = [each for each in values if not isinstance(each, str)]
    if wrong and all(isinstance(each, (bool, np.bool_)) for each in values):
        return values.astype(bool)
    if wrong and all(isinstance(each, (int, float, np.number)) for each in values):
        return np.asarray(values.tolist())
    if wrong:
        what = f"a {type(wrong[0]).__name__} ({wrong[0]!s}) among texts"
        raise ExportError(f"The column {name!r} has {what}, which ONNX can't have in one column.", _HINT)
    return values


def _plain(array: Any) -> Any:
    """An array of numpy's own type, where pandas has an extension of it."""
    kinds = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return np.asarray(array)
    if (
        array.dtype.kind == "u"
        and array.dtype.itemsize == 8
        and array.max(initial=0) > np.iinfo(np.int64).max
    ):
        return array.astype(np.float64)
    return np.asarray(array).astype(kinds.get(array.dtype.kind, array.dtype))


def in_precision(tensor: Tensor, precision: str, *, every: bool = False) -> Tensor:
    """The input, its numbers in the precision of an attempt."""
    wide = every or (len(tensor.shape) > 1 and tensor.shape[-1] != 1)
    if tensor.dtype == "float64" or (tensor.dtype in {"int64", "bool"} and wide):
        return replace(tensor, dtype=precision)
    return tensor


def refuse_sizes(inputs: tuple[Tensor, ...], options: Options) -> None:
    """Refuse other sizes that vary than the number of rows, which always does.

    Raises
    ------
    UsageError
        Names what was asked for.
    """
    asked = options.dynamic if isinstance(options.dynamic, Mapping) else {}
    known = {each.name for each in inputs}
    if options.dynamic is False or any(name not in known or {*asked[name]} != {0} for name in asked):
        raise UsageError(
            f"dynamic={options.dynamic!r}: of a scikit-learn model the rows vary, and nothing else.",
            f"Leave dynamic out; the inputs are {', '.join(map(str, inputs))}.",
        )


def refuse_rounding(inputs: tuple[Tensor, ...], feeds: Feeds) -> None:
    """Refuse single precision for whole numbers that it has not: their neighbours would be the same.

    Raises
    ------
    ExportError
        Names the input.
    """
    for each in inputs:
        values = np.asarray(feeds[each.name])
        if each.dtype != "float32" or values.dtype.kind not in "iuf" or values.dtype.itemsize < 8:
            continue
        finite = values[np.isfinite(values)]
        whole = finite[(np.abs(finite) <= 2.0**53) & (finite == np.round(finite))]
        if np.any(whole.astype(np.float32).astype(np.float64) != whole):
            raise ExportError(
                f"The input {each.name!r} has whole numbers beyond 2**24, which single precision has not.",
                "Encode numbers that are names (OrdinalEncoder), or count from a later origin.",
            )


def skl_type(tensor: Tensor) -> Any:
    """What skl2onnx calls such an input."""
    from skl2onnx.common import data_types

    kinds = {
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
        "int64": data_types.Int64TensorType,
        "bool": data_types.BooleanTensorType,
        TEXT: data_types.StringTensorType,
    }
    return kinds[tensor.dtype]([size if isinstance(size, int) else None for size in tensor.shape])


def doubt(feeds: Feeds) -> str:
    """What a difference most likely comes from, if it is the sample's type."""
    if any(value.dtype.kind == "f" and value.dtype.itemsize < 8 for value in feeds.values()):
        return "scikit-learn itself rounds more for a sample in single precision; give it in double."
    return ""

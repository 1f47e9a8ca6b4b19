"""scikit-learn, and what looks like it: XGBoost and LightGBM."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud import extras
from nbcloud.errors import ExportError
from nbcloud.models import onnxfile
from nbcloud.models.export.base import Conversion, Options
from nbcloud.models.signature import TEXT, Feeds, Tensor

OPSET = 21
ML_OPSET = 3
_PURPOSE = "to export scikit-learn models"

_ALL = ", all numbers"
attempts = ("float32", f"float32{_ALL}", "float64", f"float64{_ALL}")
"""scikit-learn computes in double precision; single is half the size, and nearly always enough. Columns of
whole numbers stay so, as encoders want them, or become fractions like the others, as scalers do."""


def accepts(model: Any) -> bool:
    """Whether this is a scikit-learn estimator."""
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(model, base.BaseEstimator)


def adapt(model: Any, sample: Any, options: Options) -> SklearnModel:  # noqa: ARG001 - as every framework's
    """The model with its sample."""
    extras.check("skl2onnx", _PURPOSE)
    return SklearnModel(model, sample)


class SklearnModel:
    """An estimator or pipeline.

    Parameters
    ----------
    sample : array or DataFrame, shape (rows, features)
        A table whose columns are of several types, or that are chosen by name, becomes one input for each
        column; any other, one input ``X``.
    """

    framework = "scikit-learn"

    def __init__(self, model: Any, sample: Any) -> None:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            check_is_fitted(model)
        except (NotFittedError, TypeError) as error:
            raise ExportError(f"The model is not trained: {error}", "Call its fit() first.") from None
        self._model = model
        self._step_numbers: dict[str, int] = {}
        self._pairs = False
        """Whether ONNX has a score for each of two classes, where scikit-learn has one for both."""
        self._columns: list[str] = []
        self.versions = _versions("scikit-learn", "skl2onnx") | {
            name: str(sys.modules[name].__version__) for name in _booster_packages(model)
        }
        if hasattr(sample, "columns") and hasattr(sample, "dtypes"):
            self._of_table(sample)
        else:
            self._of_array(np.asarray(sample))

    def _of_table(self, table: Any) -> None:
        self._columns = [str(column) for column in table.columns]
        kinds = {table.dtypes.iloc[place].kind for place in range(len(self._columns))}
        self._apart = bool(kinds - set("fiub")) or _chooses_by_name(self._model)
        if not self._apart:
            values = table.to_numpy()
            self.feeds: Feeds = {"X": values}
            self.inputs: tuple[Tensor, ...] = (
                Tensor("X", _type_of(values), ("batch", len(self._columns)), columns=tuple(self._columns)),
            )
            return
        arrays = {str(name): _column(table.iloc[:, place]) for place, name in enumerate(table.columns)}
        self.feeds = {name: array.reshape(-1, 1) for name, array in arrays.items()}
        self.inputs = tuple(Tensor(name, _type_of(array), ("batch", 1)) for name, array in self.feeds.items())

    def _of_array(self, array: Any) -> None:
        self._apart = False
        if array.dtype.kind in "US":
            array = array.astype(object)
        shape = ("batch", *array.shape[1:])
        self.feeds = {"X": array}
        self.inputs = (Tensor("X", _type_of(array), shape),)

    def _native(self, feeds: Feeds) -> Any:
        """The feeds as the estimator takes them."""
        if not self._columns:
            return feeds["X"]
        import pandas as pd

        if not self._apart:
            return pd.DataFrame(feeds["X"], columns=self._columns)
        return pd.DataFrame({name: feeds[name].reshape(-1) for name in self._columns})

    def predict(self, feeds: Feeds) -> Feeds:
        """Its answers: ``label`` with ``probabilities`` or ``scores``; ``prediction``; ``features``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = _answers(self._model, self._native(feeds))
        scores = answers.get("scores")
        if scores is not None and scores.ndim == 1 and self._pairs:
            answers["scores"] = np.stack([-scores, scores], axis=1)
        return answers

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the estimator as ONNX, its numbers in the precision of ``attempt``."""
        import skl2onnx

        _register_boosters(self._model)
        precision = attempt.partition(",")[0]
        inputs = tuple(_in_precision(each, precision, every=attempt.endswith(_ALL)) for each in self.inputs)
        if attempt.endswith(_ALL) and inputs == tuple(_in_precision(each, precision) for each in self.inputs):
            raise ExportError("The model takes no whole numbers.")
        opset = options.opset or OPSET
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made, topology = skl2onnx.convert_sklearn(
                    self._model,
                    initial_types=[(each.name, _skl_type(each)) for each in inputs],
                    options=_options(self._model, precision),
                    target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
                    intermediate=True,
                )
        except Exception as error:
            raise _refused(self._model, error) from error
        if precision == "float64":
            _round_before_trees(self._model, made)
        _rename_inputs(made, [each.name for each in inputs])
        names = [output.name for output in made.graph.output]
        told = _output_names(self._model, len(names))
        _rename_outputs(made, dict(zip(names, options.output_names or told, strict=False)))
        onnxfile.save(made, path)
        outputs = tuple(_output(self._model, output) for output in made.graph.output)
        inside = {name for node in made.graph.node for name in node.output}
        self._pairs = outputs[-1].name == "scores" and outputs[-1].shape[-1] == 2
        steps = {name: told for name, (_, told) in self._steps(topology).items() if name in inside}
        self._step_numbers = {name: number for name, (number, _) in self._steps(topology).items()}
        return Conversion(path, inputs, outputs, f"skl2onnx {skl2onnx.__version__}, {attempt}", opset, steps)

    def _steps(self, topology: Any) -> dict[str, tuple[int, str]]:
        """The values that a pipeline's steps hand on: which step makes each, by the value's name in ONNX."""
        made = {
            id(operator.raw_operator): operator.outputs[0].onnx_name
            for operator in topology.unordered_operator_iterator()
            if operator.outputs
        }
        return {
            made[id(step)]: (number, f"{name!r} ({type(step).__name__})")
            for number, (name, step) in enumerate(getattr(self._model, "steps", [])[:-1])
            if id(step) in made
        }

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """What each step of a pipeline hands on."""
        for name in names:
            values = self._model[: self._step_numbers[name] + 1].transform(self._native(feeds))
            yield name, values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def _answers(model: Any, data: Any) -> Feeds:
    from sklearn.base import is_classifier, is_outlier_detector

    if not hasattr(model, "predict"):
        values = model.transform(data)
        return {"features": values.toarray() if hasattr(values, "toarray") else np.asarray(values)}
    found = np.asarray(model.predict(data))
    if is_classifier(model):
        answers = {"label": found}
        if hasattr(model, "predict_proba"):
            answers["probabilities"] = _stacked(model.predict_proba(data))
        elif hasattr(model, "decision_function"):
            answers["scores"] = np.asarray(model.decision_function(data))
        return answers
    if is_outlier_detector(model):
        return {"label": found, "scores": np.asarray(model.decision_function(data))}
    if hasattr(model, "transform") and hasattr(model, "n_clusters"):
        return {"label": found, "scores": np.asarray(model.transform(data))}
    return {"prediction": found}


def _stacked(probabilities: Any) -> Any:
    """Probabilities of several targets, one after the other along the first axis, as ONNX has them."""
    return np.stack(probabilities) if isinstance(probabilities, list) else np.asarray(probabilities)


def _output_names(model: Any, count: int) -> tuple[str, ...]:
    from sklearn.base import is_classifier, is_outlier_detector

    if not hasattr(model, "predict"):
        return ("features",)
    if is_classifier(model):
        return "label", "probabilities" if hasattr(model, "predict_proba") else "scores"
    if is_outlier_detector(model) or (count > 1 and hasattr(model, "transform")):
        return "label", "scores"
    return ("prediction", "deviation") if count > 1 else ("prediction",)


def _output(model: Any, value: Any) -> Tensor:
    """What an output is, with the classes that it speaks of."""
    import onnx

    tensor = value.type.tensor_type
    dtype = "str" if tensor.elem_type == onnx.TensorProto.STRING else str(
        onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    )  # fmt: skip
    sizes = [size.dim_value or size.dim_param or "" for size in tensor.shape.dim]
    shape = tuple(size or ("batch" if place == 0 else f"size{place}") for place, size in enumerate(sizes))
    classes = getattr(model, "classes_", None)
    labels: tuple[int | str, ...] = ()
    if (
        isinstance(classes, np.ndarray)
        and classes.ndim == 1
        and value.name in {"label", "probabilities", "scores"}
    ):
        labels = tuple(classes.tolist())
    return Tensor(value.name, dtype, ("batch", *shape[1:]) if shape else (), labels=labels)


def _rename_inputs(model: Any, names: list[str]) -> None:
    """Give inputs the names that columns have, of which skl2onnx takes only letters and digits."""
    new = {value.name: name for value, name in zip(model.graph.input, names, strict=True)}
    for value in model.graph.input:
        value.name = new[value.name]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = new.get(name, name)


def _rename_outputs(model: Any, names: dict[str, str]) -> None:
    """Give outputs other names: the nodes that make them, and those that use them inside."""
    taken = {name for node in model.graph.node for name in node.output} - names.keys()
    for old in [old for old, new in names.items() if new in taken and new != old]:
        for node in model.graph.node:
            for list_ in (node.input, node.output):
                for place, name in enumerate(list_):
                    if name == names[old] and name not in names:
                        list_[place] = f"{name}_inside"
    for node in model.graph.node:
        for list_ in (node.input, node.output):
            for place, name in enumerate(list_):
                list_[place] = names.get(name, name)
    for output in model.graph.output:
        output.name = names.get(output.name, output.name)


def _type_of(array: Any) -> str:
    """The type of an input: whole numbers count as numbers, since estimators compute with fractions."""
    if array.dtype.kind in "OUS":
        kinds = {type(item) for item in array.ravel().tolist()}
        if kinds <= {str}:
            return TEXT
        wrong = next(kind for kind in kinds if kind is not str)
        raise ExportError(
            f"The sample has a {wrong.__name__} among texts, which ONNX can't have in one column.",
            "Give numbers and texts columns of their own, in a DataFrame; fill what is missing.",
        )
    return "bool" if array.dtype.kind == "b" else "int64" if array.dtype.kind in "iu" else "float64"


def _in_precision(tensor: Tensor, precision: str, *, every: bool = False) -> Tensor:
    wide = every or tensor.shape[-1] != 1 or len(tensor.shape) == 1
    if tensor.dtype == "float64" or (tensor.dtype in {"int64", "bool"} and wide):
        return replace(tensor, dtype=precision)
    return tensor


def _skl_type(tensor: Tensor) -> Any:
    from skl2onnx.common import data_types

    kinds = {
        "float32": data_types.FloatTensorType,
        "float64": data_types.DoubleTensorType,
        "int64": data_types.Int64TensorType,
        "bool": data_types.BooleanTensorType,
        TEXT: data_types.StringTensorType,
    }
    return kinds[tensor.dtype]([size if isinstance(size, int) else None for size in tensor.shape])


def _column(series: Any) -> Any:
    """A column as an array that ONNX can have."""
    if getattr(series.dtype, "kind", "O") in "fiub":
        return series.to_numpy()
    return series.to_numpy(dtype=object)


def _parts(model: Any) -> Iterator[Any]:
    """An estimator and all those inside of it."""
    from sklearn.base import BaseEstimator

    yield model
    for value in vars(model).values():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            for part in each if isinstance(each, tuple) else [each]:
                if isinstance(part, BaseEstimator):
                    yield from _parts(part)


def _chooses_by_name(model: Any) -> bool:
    return any(type(part).__name__ == "ColumnTransformer" for part in _parts(model))


def _options(model: Any, precision: str) -> dict[Any, dict[str, Any]]:
    """What keeps the converters from surprises."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import get_converter
    from sklearn.base import is_classifier

    chosen: dict[Any, dict[str, Any]] = {}
    for part in _parts(model):
        if type(part) not in sklearn_operator_name_map:
            continue
        allowed = get_converter(sklearn_operator_name_map[type(part)]).get_allowed_options() or {}
        wanted: dict[str, Any] = {"locale": "C"}  # accents as they are
        if is_classifier(part):
            wanted["zipmap"] = False  # arrays, no lists of dictionaries
            # Without: the votes of an SVC of two classes, by whose sign its scores are turned.
            wanted["raw_scores"] = not hasattr(part, "predict_proba")
        if precision == "float64":
            wanted["div"] = "div_cast"  # ONNX' own Scaler computes in single precision
        mine = {name: value for name, value in wanted.items() if name in allowed}
        if mine:
            chosen[id(part)] = mine
    return chosen


def _round_before_trees(model: Any, made: Any) -> None:
    """Have trees see single precision, which is what scikit-learn's own compare with their thresholds."""
    import onnx

    if any(type(part).__name__.startswith("HistGradientBoosting") for part in _parts(model)):
        return  # whose trees compare in double precision
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for number, node in enumerate(nodes):
        if node.op_type.startswith("TreeEnsemble"):
            rounded = f"rounded_for_trees_{number}"
            made.graph.node.append(
                onnx.helper.make_node("Cast", [node.input[0]], [rounded], to=onnx.TensorProto.FLOAT)
            )
            node.input[0] = rounded
        made.graph.node.append(node)


def _booster_packages(model: Any) -> list[str]:
    modules = {type(part).__module__.partition(".")[0] for part in _parts(model)}
    return [name for name in ("xgboost", "lightgbm") if name in modules]


def _register_boosters(model: Any) -> None:
    """Have skl2onnx know the models of XGBoost and LightGBM that are in it."""
    wanted = _booster_packages(model)
    if not wanted:
        return
    extras.check("onnxmltools", f"to export models of {' and '.join(wanted)}")
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for part in _parts(model):
        package = type(part).__module__.partition(".")[0]
        if package not in wanted:
            continue
        classifies = hasattr(part, "classes_") or hasattr(part, "predict_proba")
        if package == "xgboost":
            from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as convert
        else:
            from onnxmltools.convert.lightgbm.operator_converters.LightGbm import (
                convert_lightgbm as convert,
            )
        update_registered_converter(
            type(part),
            f"{package}{type(part).__name__}",
            calculate_linear_classifier_output_shapes
            if classifies
            else calculate_linear_regressor_output_shapes,
            convert,
            options={"zipmap": [True, False, "columns"], "nocl": [True, False]} if classifies else None,
        )


def _versions(*packages: str) -> dict[str, str]:
    from importlib import metadata

    return {package: metadata.version(package) for package in packages}


def _refused(model: Any, error: Exception) -> ExportError:
    """Which step ONNX can't have, and why."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    for part in _parts(model):
        own = type(part).__module__.partition(".")[0]
        inner = type(part).__name__.startswith("_") or part is model
        unknown = type(part) not in sklearn_operator_name_map and type(part).__name__ in str(error)
        if unknown and own == "sklearn" and not inner:
            return ExportError(
                f"{type(part).__name__}, a part of the model, can't become ONNX: skl2onnx does not know it.",
                "Use another step in its place, or export the steps behind it and do this one before.",
                part=type(part).__name__,
            )
    told = str(error).strip().split("\n")[0].rstrip(".")
    if "Unable to find a shape calculator" in told or "Unable to find converter" in told:
        name = next((type(part).__name__ for part in _parts(model) if type(part).__name__ in told), "It")
        told = f"skl2onnx does not know {name}"
    return ExportError(
        f"{type(model).__name__} can't become ONNX: {told}.",
        "Use another model or step, or other settings of it.",
        part=type(model).__name__,
    )

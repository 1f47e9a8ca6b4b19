"""Estimators and pipelines, with a sample of what they take."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ExportError, NbcloudError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.export.skl import answers, boosters, graph, limits, refusals, table, trees, words
from nbcloud.models.export.skl.parts import last, parts
from nbcloud.models.export.skl.plain import Plain, handed_on
from nbcloud.models.exportable import Conversion, Options
from nbcloud.models.signature import Feeds, Tensor
from nbcloud.models.steps import apply

OPSET = 21
ML_OPSET = 3
ALL = ", all numbers"


class SklearnModel:
    """An estimator or pipeline.

    Parameters
    ----------
    sample : array or DataFrame, shape (rows, features)
        A table whose columns are of several types, or that are chosen by name, becomes one input for each
        column; any other, one input ``X``.
    """

    framework = "scikit-learn"

    def __init__(self, model: Any, sample: Any, options: Options) -> None:
        refusals.untrained(model)
        self._model = model = handed_on(model)
        refusals.known(model)
        self._step_numbers: dict[str, int] = {}
        self._pairs = False
        """Whether ONNX has a score for each of two classes, where scikit-learn has one for both."""
        self.versions = {name: metadata.version(name) for name in ("scikit-learn", "skl2onnx")}
        for name in boosters.packages(model):
            self.versions[name] = boosters.version(name)
        by_column = any(type(part).__name__ == "ColumnTransformer" for part in parts(model))
        self._sample = table.read(sample, options, by_column=by_column)
        self.inputs, self.feeds = self._sample.inputs, self._sample.feeds
        table.refuse_sizes(self.inputs, options)
        taken = {each.name for each in self.inputs}
        told = answers.names(model)
        self._names = tuple(f"{name}_out" if name in taken else name for name in told)
        if options.output_names is not None:
            if len(set(options.output_names)) != len(told):
                raise UsageError(
                    f"{len(set(options.output_names))} names for outputs were given, and the model has "
                    f"{len(told)}.",
                    f"They are in this order: {', '.join(told)}.",
                )
            self._names = tuple(options.output_names)
        self._renamed = dict(zip(told, self._names, strict=True))
        try:
            self._answers = self.predict(self.feeds)
        except NbcloudError:
            raise
        except Exception as error:
            raise refusals.sample(error) from error

    def predict(self, feeds: Feeds) -> Feeds:
        """Its answers: ``label`` with ``probabilities`` or ``scores``; ``prediction``; ``features``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = answers.of(self._model, self._sample.native(feeds))
        scores = found.get("scores")
        if scores is not None and scores.ndim == 1 and self._pairs:
            found["scores"] = np.stack([-scores, scores], axis=1)
        return {self._renamed[name]: value for name, value in found.items()}

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the estimator as ONNX, its numbers in the precision of ``attempt``."""
        import skl2onnx

        precision = attempt.partition(",")[0]
        inputs = tuple(
            table.in_precision(each, precision, every=attempt.endswith(ALL)) for each in self.inputs
        )
        if attempt.endswith(ALL) and inputs == tuple(
            table.in_precision(each, precision) for each in self.inputs
        ):
            raise ExportError("The model takes no whole numbers.")
        boosters.register(self._model)
        opset = options.opset or OPSET
        newest = skl2onnx.__max_supported_opset__
        if not 1 <= opset <= newest:
            raise ExportError(f"skl2onnx does not write opset {opset}.", f"Say one up to {newest}, or none.")
        plain = Plain(self._model, precision)
        refusals.unknown(self._model, plain.model)
        try:
            with warnings.catch_warnings(), trees.single_thresholds():
                warnings.simplefilter("ignore")
                made, topology = skl2onnx.convert_sklearn(
                    plain.model,
                    initial_types=[(each.name, table.skl_type(each)) for each in inputs],
                    options=_options(plain.model, precision),
                    target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
                    intermediate=True,
                )
        except Exception as error:
            raise refusals.failed(plain.model, error) from error
        del made.graph.output[len(self._names) :]  # what the estimator itself does not tell
        if len(made.graph.output) != len(self._names):
            raise ExportError(
                f"{type(last(self._model)).__name__} can't become ONNX: skl2onnx gives it "
                f"{len(made.graph.output)} outputs, and it has {len(self._names)}.",
                "Use another model or step, or other settings of it.",
            )
        old = [each.name for each in (*made.graph.input, *made.graph.output)]
        told = dict(zip(old, (*(each.name for each in inputs), *self._names), strict=True))
        graph.rename(made, told)
        used = {name for node in made.graph.node for name in node.input}
        table.refuse_rounding(tuple(each for each in inputs if each.name in used), self.feeds)
        inputs, steps = words.cut(made, plain.counted, inputs, precision)
        self._mend(made, precision)
        if plain.classes is not None and type(last(self._model)).__name__ not in refusals.THRESHOLDS:
            graph.name_classes(made, plain.classes)
        given = apply(steps, self.feeds)
        outputs = graph.outputs(made, made.SerializeToString(), inputs, given)
        onnxfile.save(made, path)
        self._pairs = self._renamed.get("scores") == outputs[-1].name and outputs[-1].shape[-1] == 2
        return Conversion(
            path,
            inputs,
            self._labelled(outputs, options),
            f"skl2onnx {skl2onnx.__version__}, {attempt}",
            opset,
            self._told_steps(plain.model, topology, made, told),
            preprocessing=steps,
            doubt=limits.doubt(self._model) or table.doubt(self.feeds),
            scores={self._names[0]: self._names[-1]},
        )

    def _mend(self, made: Any, precision: str) -> None:
        """What skl2onnx has otherwise than scikit-learn."""
        if precision == "float64":
            trees.single_in_trees(self._model, made)
            graph.impute_in_double(self._model, made)
        trees.mend_trees(self._model, made)
        for output in list(made.graph.output):
            graph.stack_sequence(made, output.name)
        prediction = self._answers.get(self._renamed.get("prediction", ""))
        if prediction is not None and prediction.ndim == 2:
            graph.keep_targets(made, prediction.shape[1])
        end = last(self._model)
        if type(end).__name__ == "HistGradientBoostingRegressor" and end.loss in limits.EXPONENTIAL:
            graph.exponential(made)
        if type(end).__name__ in refusals.THRESHOLDS:
            graph.by_threshold(made, *refusals.threshold(end))

    def _labelled(self, outputs: tuple[Tensor, ...], options: Options) -> tuple[Tensor, ...]:
        """The outputs with the classes that they speak of."""
        classes = getattr(self._model, "classes_", None)
        known: tuple[int | str, ...] = ()
        if isinstance(classes, np.ndarray) and classes.ndim == 1:
            known = tuple(classes.tolist())
        told = tuple(options.labels or known)
        if options.labels and known and len(told) != len(known):
            raise UsageError(
                f"{len(told)} labels were given, and the model has {len(known)} classes.",
                f"They are in this order: {', '.join(map(str, known))}.",
            )
        found = []
        for each in outputs:
            kind = next(kind for kind, name in self._renamed.items() if name == each.name)
            if kind == "label" and each.shape[1:] in ((), (1,)):
                each = replace(each, labels=known)
            elif kind != "label" and told and each.shape[-1:] == (len(told),):
                each = replace(each, labels=told)
            found.append(each)
        return tuple(found)

    def _told_steps(self, plain: Any, topology: Any, made: Any, names: dict[str, str]) -> dict[str, str]:
        """The values that a pipeline's steps hand on: which step makes each, by the value's name in ONNX."""
        values = {
            id(operator.raw_operator): operator.outputs[0].onnx_name
            for operator in topology.unordered_operator_iterator()
            if operator.outputs
        }
        inside = {name for node in made.graph.node for name in node.output}
        own, told = getattr(self._model, "steps", [])[:-1], {}
        self._step_numbers = {}
        for number, ((name, step), (_, written)) in enumerate(
            zip(own, getattr(plain, "steps", []), strict=False)
        ):
            value = values.get(id(written), "")
            if value in inside and value not in names.values():
                told[value] = f"{name!r} ({type(step).__name__})"
                self._step_numbers[value] = number
        return told

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """What each step of a pipeline hands on."""
        for name in names:
            values = self._model[: self._step_numbers[name] + 1].transform(self._sample.native(feeds))
            yield name, values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def _options(model: Any, precision: str) -> dict[Any, dict[str, Any]]:
    """What keeps the converters from surprises."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import get_converter
    from sklearn.base import is_classifier

    chosen: dict[Any, dict[str, Any]] = {}
    for part in parts(model):
        if type(part) not in sklearn_operator_name_map:
            continue
        allowed = get_converter(sklearn_operator_name_map[type(part)]).get_allowed_options() or {}
        wanted: dict[str, Any] = {}
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

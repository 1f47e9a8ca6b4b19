"""The same estimator in forms that skl2onnx knows: a copy, whose answers are those of the original."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nbcloud.models.export.skl import boosters, quantiles, words
from nbcloud.models.export.skl.parts import is_part, is_template, last

_INNER = {
    "GridSearchCV": "best_estimator_",
    "RandomizedSearchCV": "best_estimator_",
    "HalvingGridSearchCV": "best_estimator_",
    "HalvingRandomSearchCV": "best_estimator_",
    "SelfTrainingClassifier": "estimator_",
    "FrozenEstimator": "estimator",
}
"""What only hands on what another estimator answers."""
_THRESHOLDS = ("TunedThresholdClassifierCV", "FixedThresholdClassifier")
_SELECTORS = ("RFE", "RFECV", "SequentialFeatureSelector")


def handed_on(model: Any) -> Any:
    """The estimator whose answers are the model's, where it only hands them on."""
    while type(model).__name__ in _INNER and hasattr(model, _INNER[type(model).__name__]):
        model = getattr(model, _INNER[type(model).__name__])
    return model


class Plain:
    """A copy of an estimator that skl2onnx can write.

    Parameters
    ----------
    precision : str
        Of the numbers that steps before the graph make.

    Attributes
    ----------
    model : estimator
    counted : dict
        For the place of each step that counts words, the estimator that does (see `words`).
    classes : array or None
        What the model's classes are, where they are only numbered in the copy.
    """

    def __init__(self, model: Any, precision: str) -> None:
        self._precision = precision
        self.counted: dict[str, Any] = {}
        self.classes = _to_number(model)
        self._made: dict[int, tuple[Any, Any]] = {}
        self.model = self._last(self._of(model))

    def _of(self, part: Any, *, transforms: bool = False) -> Any:
        """The part in its plain form; the same object where there is nothing to change."""
        known = self._made.get(id(part))
        if known is None:
            # With the original, which must live as long as its number is used.
            known = self._made[id(part)] = (part, self._form(part, transforms=transforms))
        return known[1]

    def _form(self, part: Any, *, transforms: bool) -> Any:
        from sklearn.linear_model import Perceptron
        from sklearn.preprocessing import FunctionTransformer

        kind = type(part).__name__
        if type(part).__module__.startswith("xgboost."):
            return boosters.plain(part)
        if not type(part).__module__.startswith("sklearn."):
            return part if not is_part(part) or not hasattr(part, "__dict__") else self._inside(part)
        if kind in _INNER and hasattr(part, _INNER[kind]):
            return self._of(getattr(part, _INNER[kind]), transforms=transforms)
        if kind in _THRESHOLDS:
            return self._of(part.estimator_)
        if words.counts(part):
            place = f"counted{len(self.counted)}"
            self.counted[place] = part
            return words.stand_in(part, place, self._precision)
        if kind == "QuantileTransformer":
            return quantiles.stand_in(part)
        if kind == "LinearDiscriminantAnalysis":
            return _projection(part) if transforms else _logistic(self._inside(part))
        if kind == "LinearSVC":
            # skl2onnx has a case of its own for it in others, which is wrong there.
            made = _with(Perceptron(), self._inside(part), "coef_", "intercept_", "classes_")
            made.intercept_ = np.broadcast_to(made.intercept_, len(made.coef_))  # 0.0 where none is fitted
            return made
        if _is_filled(part):
            return FunctionTransformer()
        if kind in _SELECTORS and (transforms or not hasattr(part, "predict")):
            return _selector(part)
        if kind == "SparseRandomProjection":
            return _dense_projection(part)
        if kind == "SimpleImputer":
            part = _imputer_of_fractions(part)
        if kind in ("Pipeline", "FeatureUnion"):
            part = _without_words(part)
        if kind.startswith("Voting") and part.weights is not None:
            part = copy.copy(part)
            part.weights = np.asarray(part.weights)
        if kind == "OneHotEncoder" and not any(
            each is not None for each in getattr(part, "infrequent_categories_", [])
        ):
            part = _with_setting(part, "handle_unknown", "infrequent_if_exist", "ignore")
        name, old, new = _SETTINGS.get(kind, ("", None, None))
        return self._inside(_with_setting(part, name, old, new) if name else part)

    def _inside(self, part: Any) -> Any:
        """A copy with plain parts inside, or the part itself where all are."""
        new = {}
        for name, value in vars(part).items():
            if is_template(part, name):
                continue
            if name == "classes_" and self.classes is not None and np.array_equal(value, self.classes):
                new[name] = np.arange(len(value))
                continue
            made = self._value(value, _transform_only(part, name))
            if made is not value:
                new[name] = made
        if not new:
            return part
        part = copy.copy(part)
        vars(part).update(new)
        return part

    def _value(self, value: Any, transforms: int | None) -> Any:
        """A value of an estimator's; its first ``transforms`` parts, or all, only transform."""
        if is_part(value) and not isinstance(value, type):
            return self._of(value, transforms=transforms is None)
        if not isinstance(value, (list, tuple)) or not value:
            return value
        made = []
        for place, each in enumerate(value):
            only = None if transforms is None or place < transforms else 0
            made.append(self._value(each, only))
        if all(one is other for one, other in zip(made, value, strict=True)):
            return value
        return made if isinstance(value, list) else tuple(made)

    def _last(self, model: Any) -> Any:
        """A pipeline, or an estimator alone, whose last step selects columns and then predicts."""
        from sklearn.pipeline import Pipeline

        end = model.steps[-1][1] if isinstance(model, Pipeline) else model
        if type(end).__name__ not in _SELECTORS:
            return model
        both = [("select", _selector(end)), ("predict", self._of(end.estimator_))]
        if not isinstance(model, Pipeline):
            return Pipeline(both)
        return Pipeline([*model.steps[:-1], *both])


def _imputer_of_fractions(part: Any) -> Any:
    """An imputer of numbers with fractions for all it knows; skl2onnx looks for whole numbers otherwise."""
    numbers = part.statistics_.dtype.kind in "iu" or (
        part.statistics_.dtype == object and all(isinstance(each, (int, float)) for each in part.statistics_)
    )
    whole = type(part.missing_values) is int
    if not numbers and not whole:
        return part
    part = copy.copy(part)
    part.statistics_ = part.statistics_.astype(float)
    part.missing_values = float(part.missing_values)
    return part


def _with_setting(part: Any, name: str, old: Any, new: Any) -> Any:
    """The part, or a copy of it with another setting that is the same for it."""
    if getattr(part, name) != old:
        return part
    part = copy.copy(part)
    setattr(part, name, new)
    return part


def _without_words(part: Any) -> Any:
    """A pipeline or union whose steps all are estimators: "passthrough" is one that does nothing."""
    from sklearn.preprocessing import FunctionTransformer

    name = "steps" if hasattr(part, "steps") else "transformer_list"
    steps = [each for each in getattr(part, name) if each[1] != "drop"]
    if not any(each is None or isinstance(each, str) for _, each in steps) and len(steps) == len(
        getattr(part, name)
    ):
        return part
    part = copy.copy(part)
    plain = [
        (told, FunctionTransformer() if each is None or isinstance(each, str) else each)
        for told, each in steps
    ]
    setattr(part, name, plain)
    return part


def _to_number(model: Any) -> Any:
    """The model's classes, if converters are known to write such as these wrongly."""
    from sklearn.base import is_classifier

    classes = getattr(model, "classes_", None)
    if not is_classifier(model) or not isinstance(classes, np.ndarray) or classes.ndim != 1:
        return None
    safe = classes.dtype.kind in "OU" or (
        classes.dtype == np.int64 and np.abs(classes).max(initial=0) < np.iinfo(np.int32).max
    )
    if type(last(model)).__name__ == "OneVsOneClassifier":
        safe = np.array_equal(classes, np.arange(len(classes)))
    return None if safe and classes.dtype != np.bool_ else classes


def _is_filled(part: Any) -> bool:
    """Whether this fills in what is missing among texts: no text that ONNX has is missing."""
    return (
        type(part).__name__ == "SimpleImputer"
        and all(isinstance(each, str) for each in getattr(part, "statistics_", [None]))
        and not isinstance(part.missing_values, str)
        and not part.add_indicator
    )


_SETTINGS = {
    "VotingClassifier": ("flatten_transform", True, False),
    "RandomTreesEmbedding": ("sparse_output", True, False),
    "KBinsDiscretizer": ("encode", "onehot", "onehot-dense"),
    "NearestNeighbors": ("radius", 1.0, None),
}
"""What changes nothing in the answers, or only whether zeros are written."""


def _transform_only(part: Any, name: str) -> int | None:
    """How many parts of an attribute's only transform, at its beginning; None: all of them."""
    kind = type(part).__name__
    if kind in ("FeatureUnion", "ColumnTransformer"):
        return None
    return len(part.steps) - 1 if kind == "Pipeline" and name == "steps" else 0


def _logistic(part: Any) -> Any:
    """A linear discriminant predicts as a logistic regression does; skl2onnx has two classes otherwise."""
    from sklearn.linear_model import LogisticRegression

    return _with(LogisticRegression(), part, "coef_", "intercept_", "classes_")


def _projection(part: Any) -> Any:
    from sklearn.decomposition import PCA

    size = part._max_components
    made = _with(PCA(n_components=size), part)
    made.components_ = part.scalings_[:, :size].T
    made.mean_ = getattr(part, "xbar_", np.zeros(part.scalings_.shape[0]))
    made.n_components_ = size
    made.explained_variance_ = np.ones(size)
    return made


def _selector(part: Any) -> Any:
    """Which columns are kept is all that is left of how they were selected."""
    from sklearn.feature_selection import VarianceThreshold

    made = _with(VarianceThreshold(threshold=0.5), part)
    made.variances_ = part.get_support().astype(float)
    return made


def _dense_projection(part: Any) -> Any:
    from sklearn.random_projection import GaussianRandomProjection

    made = _with(GaussianRandomProjection(n_components=part.n_components_), part, "n_components_")
    made.components_ = (
        part.components_.toarray() if hasattr(part.components_, "toarray") else part.components_
    )
    return made


def _with(made: Any, part: Any, *names: str) -> Any:
    """An estimator that counts as trained, with values of another."""
    for name in (*names, "n_features_in_"):
        if hasattr(part, name):
            setattr(made, name, getattr(part, name))
    return made

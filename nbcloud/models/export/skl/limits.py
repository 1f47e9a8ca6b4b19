"""What skl2onnx is known to have otherwise than scikit-learn, or not at all, by the kind of estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbcloud.models.export.skl.parts import parts

HINT = "Use another step in its place, or export the steps behind it and do this one before."

EXPONENTIAL = ("poisson", "gamma")
"""Losses whose models predict the exponential of what their trees add up to."""


def of(part: Any, *, inside: bool) -> tuple[str, str] | None:
    """What of an estimator can't be, and what to do; by its kind.

    Parameters
    ----------
    inside : bool
        Whether it is a part of an estimator that makes other answers of its own.
    """
    kind = type(part).__name__
    several = "Train a model for each target, and export each."
    if kind.startswith("HistGradientBoosting") and np.any(getattr(part, "is_categorical_", None)):
        return (
            "splits by categories (categorical_features), which skl2onnx would take for numbers",
            "Encode them in a pipeline before it, by OneHotEncoder or OrdinalEncoder, and train it with "
            "categorical_features=None.",
        )
    if kind == "HistGradientBoostingRegressor" and part.loss in EXPONENTIAL and inside:
        return (
            f"has loss={part.loss!r} inside of another estimator, whose exponential skl2onnx leaves out",
            "Use loss='squared_error' there, or export it alone.",
        )
    if kind.startswith("RadiusNeighbors"):
        return (
            "has as many neighbours as are near, for which skl2onnx' graph stops with an error",
            f"Use {kind.replace('Radius', 'K')} in its place.",
        )
    if kind == "GaussianProcessClassifier":
        return (
            "needs the operator Solve, which onnxruntime has not",
            "Use CalibratedClassifierCV(SVC()), or another classifier.",
        )
    if kind.startswith("RidgeClassifier") and _labels_of_several(part):
        return "has several labels for each row, which skl2onnx writes wrongly", several
    if kind == "MLPClassifier" and _labels_of_several(part) and part.n_outputs_ == 2:
        return "has two labels for each row, which skl2onnx takes for two classes", several
    if kind == "BaggingRegressor" and _targets(part) > 1:
        return "has several targets, which skl2onnx puts below each other", several
    if kind == "TargetEncoder" and getattr(part, "target_type_", "") == "multiclass":
        return (
            "encodes by more than two classes, which skl2onnx can't write",
            "Use OneHotEncoder or OrdinalEncoder in its place.",
        )
    if kind == "QuantileTransformer" and part.output_distribution != "uniform":
        return (
            "has output_distribution='normal', which ONNX has no function for",
            "Use output_distribution='uniform', or PowerTransformer.",
        )
    if kind == "LocalOutlierFactor" and not part.novelty:
        return "tells outliers only among the data that it was fitted on", "Train it with novelty=True."
    if kind == "FunctionTransformer" and not (part.func is None and part.inverse_func is None):
        name = getattr(part.func, "__name__", str(part.func))
        return f"calls the function {name}(), which can't leave Python", HINT
    if kind == "OneVsOneClassifier" and len(part.classes_) == 2:
        return (
            "has two classes, for which skl2onnx writes wrong scores",
            "Export its one estimator: model.estimators_[0].",
        )
    if kind == "StackingClassifier" and len(part.classes_) == 2 and "decision_function" in part.stack_method_:
        return (
            "stacks the scores of two classes, for which skl2onnx has two columns",
            "Stack estimators with predict_proba(), such as CalibratedClassifierCV of these.",
        )
    if "Tree" in kind or "Forest" in kind:
        classes = part.classes_ if isinstance(getattr(part, "classes_", None), list) else []
        if any(each.dtype.kind not in "iufb" for each in classes):
            return (
                "has several targets whose classes are texts, which skl2onnx can't write",
                "Number the classes before (OrdinalEncoder), and train on that.",
            )
    if kind in ("OneVsRestClassifier", "OneVsOneClassifier") and _has_platt(part):
        return (
            "is made of SVC(probability=True), whose labels and probabilities disagree",
            "Use SVC(), or CalibratedClassifierCV(SVC()), in its place.",
        )
    if kind == "OneVsRestClassifier" and part.multilabel_ and not hasattr(part, "predict_proba"):
        return "has several labels for each row by scores, which skl2onnx takes for probabilities", several
    if kind in ("LabelEncoder", "LabelBinarizer") and not inside and part.classes_.dtype.kind not in "iuOU":
        return "has classes that are neither whole numbers nor texts, which ONNX can't look up", (
            "Make whole numbers or texts of them before, and train on that."
        )
    return _of_settings(part, kind)


def _of_settings(part: Any, kind: str) -> tuple[str, str] | None:
    """Single settings, of which another value can be exported."""
    for kinds, name, refused, why, hint in _SETTINGS:
        value = getattr(part, name, None)
        if kind in kinds and (callable(value) if refused is callable else value == refused):
            told = f"{name}={getattr(value, '__name__', value)!r}"
            return f"has {told}, {why}", hint
    if kind == "SGDClassifier" and part.loss == "modified_huber" and len(part.classes_) > 2:
        return "has loss='modified_huber' and several classes, which skl2onnx writes wrongly", (
            "Use loss='log_loss' or 'hinge'."
        )
    if kind == "BaggingClassifier" and not all(hasattr(each, "predict_proba") for each in part.estimators_):
        return (
            "is made of estimators without predict_proba(), for which skl2onnx puts votes below each other",
            ("Use estimators with probabilities, such as LogisticRegression."),
        )
    if kind == "StackingClassifier" and "predict" in part.stack_method_:
        return "stacks labels (stack_method='predict'), which skl2onnx can't write", (
            "Use stack_method='auto' and estimators with predict_proba()."
        )
    return None


_SVM = ("SVC", "NuSVC", "SVR", "NuSVR", "OneClassSVM")
_NEIGHBORS = ("KNeighborsClassifier", "KNeighborsRegressor")
_NO_FUNCTION = "which can't leave Python"
_SETTINGS: tuple[tuple[tuple[str, ...], str, Any, str, str], ...] = (
    (_SVM, "kernel", callable, _NO_FUNCTION, "Use kernel='rbf', 'linear', 'poly' or 'sigmoid'."),
    (_SVM, "kernel", "precomputed", "which skl2onnx can't write", "Use a kernel of the features themselves."),
    (("SVC", "NuSVC"), "break_ties", True, "which ONNX' operator has not", "Train it with break_ties=False."),
    (
        _NEIGHBORS,
        "weights",
        "distance",
        "for which skl2onnx answers otherwise where a row is one of the training rows",
        "Use weights='uniform'.",
    ),
    (_NEIGHBORS, "weights", callable, _NO_FUNCTION, "Use weights='uniform'."),
    (("Normalizer",), "norm", "max", "which ONNX has of numbers with their signs", "Use norm='l2' or 'l1'."),
    (
        ("SimpleImputer", "KNNImputer"),
        "add_indicator",
        True,
        "whose further columns skl2onnx leaves out",
        "Train it with add_indicator=False.",
    ),
    (
        ("CalibratedClassifierCV",),
        "method",
        "temperature",
        "which skl2onnx does not know",
        "Use method='sigmoid'.",
    ),
)
"""Kinds of estimators, a setting of theirs, a value that is refused, why, and what to do."""


def _has_platt(part: Any) -> bool:
    return any(getattr(each, "probability", False) is True for each in getattr(part, "estimators_", []))


def _labels_of_several(part: Any) -> bool:
    binarizer = getattr(part, "_label_binarizer", None)
    return getattr(binarizer, "y_type_", "").startswith("multilabel")


def _targets(part: Any) -> int:
    """How many numbers each estimator of an ensemble predicts."""
    counts = [1]
    for each in getattr(part, "estimators_", []):
        coefficients = np.asarray(getattr(each, "coef_", 0))
        counts.append(int(getattr(each, "n_outputs_", 1)))
        counts.append(len(coefficients) if coefficients.ndim == 2 else 1)
    return max(counts)


def doubt(model: Any) -> str:
    """What a difference most likely comes from, where that is known of a part of the model."""
    for part in parts(model):
        kind = type(part).__name__
        if kind.startswith(("KNeighbors", "KNN", "NearestNeighbors")):
            return f"Where several training rows are equally far, {kind} and ONNX may choose others of them."
        if kind in _SVM:
            return f"onnxruntime computes {kind} in single precision; scale the features (StandardScaler)."
        if kind == "GaussianProcessRegressor" and np.max(np.abs(getattr(part, "alpha_", 0))) > _LARGE:
            return (
                "The Gaussian process has weights so large that rounding decides; train it with more alpha=."
            )
        if kind == "CalibratedClassifierCV" and part.method == "isotonic":
            return "Isotonic calibration has steps, at which rounding decides; method='sigmoid' has none."
        fractions = any(np.asarray(each).dtype.kind == "f" for each in getattr(part, "categories_", ()))
        if kind in ("OneHotEncoder", "OrdinalEncoder") and fractions:
            return (
                f"{kind} has fractions for categories, which ONNX cuts; make whole numbers or texts of them."
            )
    return ""


_LARGE = 1e6
"""Weights that are added up to small numbers lose as many digits."""

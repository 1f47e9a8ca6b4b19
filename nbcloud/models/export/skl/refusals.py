"""Why a model can't become ONNX, in one sentence with the next thing to do."""

from __future__ import annotations

import re
from typing import Any

from nbcloud.errors import ExportError
from nbcloud.models.export.skl import boosters, limits, words
from nbcloud.models.export.skl.parts import last, parts, trained

THRESHOLDS = ("TunedThresholdClassifierCV", "FixedThresholdClassifier")


def untrained(model: Any) -> None:
    """Refuse a model that was not fitted."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except (NotFittedError, TypeError) as error:
        raise ExportError(f"The model is not trained: {error}", "Call its fit() first.") from None


def known(model: Any) -> None:
    """Refuse what is known to be impossible, or to come out wrong.

    Raises
    ------
    ExportError
        Names the part and what to do.
    """
    if not any(hasattr(model, name) for name in ("predict", "transform", "kneighbors")):
        kind = type(model).__name__
        if getattr(model, "refit", True) is False:
            raise ExportError(
                f"{kind} was told to keep no estimator (refit=False).", "Fit it with refit=True.", part=kind
            )
        raise ExportError(
            f"{kind} has neither predict() nor transform(): it tells only of the data that it was fitted on.",
            "Train a classifier on its labels, or use what answers for new data, such as KMeans or PCA.",
            part=kind,
        )
    for part in trained(model):
        boosters.refuse(part)
        if words.counts(part):
            words.refuse(part)
        wrong = limits.of(part, inside=part is not last(model))
        if part is not last(model) and type(part).__name__ in THRESHOLDS:
            wrong = "has a threshold of its own inside of another estimator", "Make it the model's last step."
        if part is not last(model) and hasattr(part, "transform") and hasattr(part, "cluster_centers_"):
            wrong = "hands distances on to another step, which skl2onnx can't write", limits.HINT
        if wrong is not None:
            what, hint = wrong
            kind = type(part).__name__
            raise ExportError(f"{kind} {what}.", hint, part=kind)


def threshold(part: Any) -> tuple[float, Any, int]:
    """From which probability on an estimator of `THRESHOLDS` tells a class, its classes, and which one.

    Raises
    ------
    ExportError
        When it does not go by probabilities.
    """
    value = getattr(part, "best_threshold_", None)
    if value is None:
        value = 0.5 if part.threshold == "auto" else part.threshold
    inner = part.estimator_
    if not hasattr(inner, "predict_proba") or part.response_method == "decision_function":
        raise ExportError(
            f"{type(part).__name__} goes by scores, and only a threshold of probabilities can be exported.",
            "Use a classifier with predict_proba(), and response_method='predict_proba'.",
            part=type(part).__name__,
        )
    scorer = getattr(part, "_curve_scorer", None)
    told = scorer._get_pos_label() if scorer is not None else part.pos_label
    classes = part.classes_.tolist()
    return float(value), classes, 1 if told is None else classes.index(told)


def unknown(model: Any, plain: Any) -> None:
    """Refuse what has no converter, by its name.

    Parameters
    ----------
    plain : estimator
        The form that is to be written; ``model`` is what the user has.
    """
    from skl2onnx._supported_operators import sklearn_operator_name_map

    known_kinds = {kind.__name__ for kind in sklearn_operator_name_map if isinstance(kind, type)}
    end, found = last(plain), _steps(plain)
    for part in parts(plain):
        if part is not end and id(part) not in found:
            continue
        kind = type(part).__name__
        if type(part) in sklearn_operator_name_map or kind in _CONTAINERS:
            continue
        own = type(part).__module__.partition(".")[0]
        if own == "sklearn" and kind in known_kinds:
            continue
        whose = "" if own == "sklearn" else f" (of {type(part).__module__})"
        alone = part is end and not hasattr(model, "steps")
        raise ExportError(
            f"{kind}{whose} can't become ONNX: skl2onnx has no converter for it.",
            "Use another estimator in its place." if alone else limits.HINT,
            part=kind,
        )


_CONTAINERS = ("Pipeline", "ColumnTransformer", "FeatureUnion", "GridSearchCV", "RandomizedSearchCV")


def _steps(model: Any) -> set[int]:
    """Numbers of the parts that become ONNX: steps of a pipeline, a union or a table of columns."""
    return {
        id(step[1])
        for part in parts(model)
        for name in ("steps", "transformer_list", "transformers_")
        for step in getattr(part, name, [])
    }


def failed(model: Any, error: Exception) -> ExportError:
    """What a converter said."""
    if isinstance(error, ExportError):
        return error
    told = " ".join(re.split(r"(?i),? ?you may raise|\\. See ", str(error))[0].split()).rstrip(". ")
    found = [part for part in parts(model) if type(part).__name__ in told]
    part = type(_converted(error) or (found[-1] if found else model)).__name__
    if "at most 1 input" in told and any(type(each).__name__ == "ColumnTransformer" for each in parts(model)):
        return ExportError(
            f"{part} can't become ONNX: it holds a ColumnTransformer, and skl2onnx wants it before {part}.",
            f"Make a pipeline of the ColumnTransformer and {part}.",
            part=part,
        )
    if "Unable to find a shape calculator" in told or "Unable to find converter" in told:
        return ExportError(
            f"{part} can't become ONNX: skl2onnx has no converter for it.", limits.HINT, part=part
        )
    return ExportError(
        f"{part} can't become ONNX: skl2onnx says {told[:300]!r} ({type(error).__name__}).",
        "Use another model or step, or other settings of it.",
        part=part,
    )


def _converted(error: Exception) -> Any:
    """The part that was being converted when skl2onnx failed, as its own frames tell."""
    found, trace = None, error.__traceback__
    while trace is not None:
        operator = trace.tb_frame.f_locals.get("operator")
        found = getattr(operator, "raw_operator", None) or found
        trace = trace.tb_next
    return found


def sample(error: Exception) -> ExportError:
    """The model itself does not take the sample."""
    told = str(error).strip().split("\n")[0].rstrip(".")
    return ExportError(
        f"The model itself refuses the sample: {type(error).__name__}: {told}.",
        "Give a sample as the model takes it.",
    )

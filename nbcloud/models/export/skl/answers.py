"""What an estimator answers, by the names of the ONNX model's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbcloud.errors import ExportError
from nbcloud.models.export.skl.parts import last
from nbcloud.models.signature import Feeds


def of(model: Any, data: Any) -> Feeds:
    """Answers: ``label`` and ``probabilities`` or ``scores``; ``prediction``; ``features``; neighbours."""
    from sklearn.base import is_classifier, is_outlier_detector

    if not hasattr(model, "predict"):
        if not hasattr(model, "transform"):
            distances, rows = model.kneighbors(data)
            return {"rows": rows, "distances": distances}
        return {"features": _dense(model.transform(data))}
    found = np.asarray(model.predict(data))
    if is_classifier(model) or _is_mixture(model):
        answers = {"label": found}
        if hasattr(model, "predict_proba"):
            answers["probabilities"] = _stacked(model.predict_proba(data))
        elif hasattr(model, "decision_function"):
            answers["scores"] = np.asarray(model.decision_function(data))
        return answers
    if is_outlier_detector(model):
        return {"label": found, "scores": np.asarray(model.decision_function(data))}
    if hasattr(model, "transform") and hasattr(last(model), "n_clusters"):
        return {"label": found, "scores": np.asarray(model.transform(data))}
    return {"prediction": found}


def names(model: Any) -> tuple[str, ...]:
    """The names of `of`, in the order in which skl2onnx has them."""
    from sklearn.base import is_classifier, is_outlier_detector

    if not hasattr(model, "predict"):
        return ("features",) if hasattr(model, "transform") else ("rows", "distances")
    if is_classifier(model) or _is_mixture(model):
        if hasattr(model, "predict_proba"):
            return "label", "probabilities"
        return ("label", "scores") if hasattr(model, "decision_function") else ("label",)
    if is_outlier_detector(model) or (hasattr(model, "transform") and hasattr(last(model), "n_clusters")):
        return "label", "scores"
    return ("prediction",)


def _is_mixture(model: Any) -> bool:
    return type(last(model)).__name__ in ("GaussianMixture", "BayesianGaussianMixture")


def _dense(values: Any) -> Any:
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def _stacked(probabilities: Any) -> Any:
    """Probabilities of several targets, one after the other along the first axis, as ONNX has them."""
    if not isinstance(probabilities, list):
        return np.asarray(probabilities)
    sizes = {each.shape for each in probabilities}
    if len(sizes) > 1:
        counts = ", ".join(str(each.shape[-1]) for each in probabilities)
        raise ExportError(
            f"The targets have different numbers of classes ({counts}), which can't be one output.",
            "Train a model for each target, and export each.",
        )
    return np.stack(probabilities)

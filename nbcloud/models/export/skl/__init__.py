"""scikit-learn, and what looks like it: XGBoost and LightGBM.

::

    table      a sample ─► inputs and their types ─► what the estimator takes
    answers    what the estimator gives, and the names of that
    refusals   what can't become ONNX, before it is tried, and why; what a converter says, in one sentence
    plain      the same estimator in the forms that skl2onnx knows
    words      texts, whose words are counted before the graph
    boosters   XGBoost and LightGBM
    limits     what skl2onnx is known to have otherwise
    graph      what is mended in the graph that skl2onnx makes: names, shapes, answers
    trees      and its trees
    quantiles  QuantileTransformer, which is written here
"""

from __future__ import annotations

import sys
from typing import Any

from nbcloud import extras
from nbcloud.models.export.skl import boosters
from nbcloud.models.export.skl.model import ALL, SklearnModel
from nbcloud.models.exportable import Options

__all__ = ["SklearnModel", "accepts", "adapt", "attempts"]

attempts = ("float32", f"float32{ALL}", "float64", f"float64{ALL}")
"""scikit-learn computes in double precision; single is half the size, and nearly always enough. Columns of
whole numbers stay so, as encoders want them, or become fractions like the others, as scalers do."""


def accepts(model: Any) -> bool:
    """Whether this is a scikit-learn estimator, or a booster that could have been one."""
    base = sys.modules.get("sklearn.base")
    return (base is not None and isinstance(model, base.BaseEstimator)) or boosters.is_native(model)


def adapt(model: Any, sample: Any, options: Options) -> SklearnModel:
    """The model with its sample."""
    extras.check("skl2onnx", "to export scikit-learn models")
    boosters.refuse_native(model)
    return SklearnModel(model, sample, options)

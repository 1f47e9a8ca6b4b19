"""XGBoost and LightGBM, whose estimators skl2onnx writes with the converters of onnxmltools."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from nbcloud import extras
from nbcloud.errors import ExportError
from nbcloud.models.export.skl.parts import parts

_PACKAGES = ("xgboost", "lightgbm")


def packages(model: Any) -> list[str]:
    """Which of the packages the model needs."""
    found = {type(part).__module__.partition(".")[0] for part in parts(model)}
    return [name for name in _PACKAGES if name in found]


def version(package: str) -> str:
    """Of the package, whatever its distribution is called."""
    return str(sys.modules[package].__version__)


def is_native(model: Any) -> bool:
    """Whether this is what the packages train without scikit-learn's interface."""
    return type(model).__module__.partition(".")[0] in _PACKAGES and type(model).__name__ in (
        "Booster",
        "CVBooster",
    )


def refuse_native(model: Any) -> None:
    """Refuse a booster that does not know what it predicts."""
    if not is_native(model):
        return
    package = type(model).__module__.partition(".")[0]
    if package == "xgboost":
        hint = (
            "Type: booster.save_model('model.json'), then model = xgboost.XGBClassifier() (or XGBRegressor), "
            "model.load_model('model.json'), and export that."
        )
    else:
        hint = (
            "Train it as lightgbm.LGBMClassifier(…).fit(x, y) or LGBMRegressor (same parameters), and export "
            "that."
        )
    raise ExportError(
        f"A native {package} Booster does not say whether it tells classes or numbers.", hint, part="Booster"
    )


def refuse(part: Any) -> None:
    """Refuse settings of an estimator that ONNX or the converter has not."""
    package, kind = type(part).__module__.partition(".")[0], type(part).__name__
    if package not in _PACKAGES:
        return
    if kind in _OTHERS:
        raise ExportError(
            f"{kind} {_OTHERS[kind]}, which onnxmltools can't write.",
            "Use the classifier or regressor of the same package.",
            part=kind,
        )
    categories = _categories(part, package)
    if categories:
        raise ExportError(
            f"{kind} splits by categories ({categories}), which the ONNX model would take for numbers.",
            "Encode them in a pipeline before it, by OrdinalEncoder or OneHotEncoder, and train it on that.",
            part=kind,
        )
    wrong = _wrong_xgboost(part) if package == "xgboost" else _wrong_lightgbm(part)
    if wrong is not None:
        raise ExportError(f"{kind} has {wrong[0]}.", wrong[1], part=kind)


_OTHERS = {"XGBRanker": "ranks", "LGBMRanker": "ranks"}
_LINKS = ("reg:logistic", "binary:hinge", "survival:cox", "survival:aft", "rank:")
_KNOWN = ("fair", "mape", "cross_entropy", "cross_entropy_lambda")


def _wrong_xgboost(part: Any) -> tuple[str, str] | None:
    """A setting that onnxmltools writes wrongly, and what to do."""
    missing, booster, objective = part.missing, part.booster, part.objective
    if isinstance(missing, (int, float)) and missing == missing:
        return (
            f"missing={missing}, and in ONNX only NaN is missing",
            "Replace it by NaN in the data, and train with missing=numpy.nan.",
        )
    if booster == "gblinear":
        return "booster='gblinear', which onnxmltools can't write", "Use booster='gbtree', or a linear model."
    if booster == "dart":
        return "booster='dart', whose trees' weights onnxmltools leaves out", "Use booster='gbtree'."
    if isinstance(objective, str) and objective.startswith(_LINKS):
        return f"objective={objective!r}, whose last step onnxmltools leaves out", (
            "Use XGBClassifier for probabilities, or objective='reg:squarederror'."
        )
    try:
        model = json.loads(part.get_booster().save_config())["learner"]["learner_model_param"]
    except Exception:  # noqa: BLE001 - an untrained one, a template of others
        return None
    if int(model.get("num_target", 1)) > 1:
        return (
            "several targets, which onnxmltools writes wrongly",
            "Use MultiOutputRegressor or MultiOutputClassifier around it.",
        )
    return None


def _wrong_lightgbm(part: Any) -> tuple[str, str] | None:
    told = part.get_params()
    names = ("boosting_type", "boosting", "boost")
    if any(told.get(name) in ("rf", "random_forest") for name in names):
        return (
            "boosting_type='rf', whose trees onnxmltools adds up",
            "Use boosting_type='gbdt', or RandomForest of scikit-learn.",
        )
    if told.get("linear_tree") or told.get("linear_trees"):
        return "linear_tree=True, which ONNX' trees have not", "Train it without."
    if told.get("zero_as_missing"):
        return (
            "zero_as_missing=True, and in ONNX only NaN is missing",
            "Replace zeros by NaN, and train without.",
        )
    objective = getattr(part, "objective_", None)
    if objective in ("multiclassova", "multiclass_ova", "ova", "ovr"):
        return "objective='multiclassova', which onnxmltools takes for 'multiclass'", "Use 'multiclass'."
    if objective in _KNOWN:
        return (
            f"objective={objective!r}, which onnxmltools does not know",
            "Use objective='regression', 'regression_l1', 'huber' or 'quantile'.",
        )
    return None


def plain(part: Any) -> Any:
    """XGBoost's estimator with its columns numbered, as onnxmltools wants them."""
    try:
        booster = part.get_booster()
    except Exception:  # noqa: BLE001 - an untrained one, a template of others
        return part
    if not booster.feature_names:
        return part
    part, booster = copy.copy(part), booster.copy()
    booster.feature_names = booster.feature_types = None
    part._Booster = booster
    return part


def _categories(part: Any, package: str) -> str:
    """The columns that a booster takes for categories."""
    try:
        if package == "xgboost":
            booster = part.get_booster()
            kinds, names = booster.feature_types or [], booster.feature_names
            found = [place for place, kind in enumerate(kinds) if kind == "c"]
            return ", ".join(str(names[place]) if names else f"column {place}" for place in found)
        text = part.booster_.model_to_string()
    except Exception:  # noqa: BLE001 - an untrained one, a template of others
        return ""
    count = sum(
        int(each) for line in text.splitlines() if line.startswith("num_cat=") for each in line[8:].split()
    )
    return f"{count} splits" if count else ""


def register(model: Any) -> None:
    """Have skl2onnx know the models of XGBoost and LightGBM that are in it."""
    wanted = packages(model)
    if not wanted:
        return
    extras.check("onnxmltools", f"to export models of {' and '.join(wanted)}")
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for part in parts(model):
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

"""XGBoost's and LightGBM's models, alone and in pipelines, answer as they do, or are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

pytest.importorskip("skl2onnx")
pytest.importorskip("onnxmltools")
pytest.importorskip("xgboost")
pytest.importorskip("lightgbm")

import lightgbm
import xgboost

from nbcloud.errors import ExportError

RANDOM = np.random.default_rng(1)
X = RANDOM.normal(size=(400, 5))
HOLED = np.where(RANDOM.random(X.shape) < 0.2, np.nan, X)
TABLE = pd.DataFrame(X, columns=list("abcde"))
Y = RANDOM.integers(0, 3, 400)
TWO = Y > 0
NUMBERS = X[:, 0] ** 2


def xgb(kind: str = "XGBRegressor", **settings: Any) -> Any:
    return getattr(xgboost, kind)(n_estimators=10, n_jobs=1, **settings)


def lgbm(kind: str = "LGBMRegressor", **settings: Any) -> Any:
    return getattr(lightgbm, kind)(n_estimators=10, n_jobs=1, verbose=-1, **settings)


@pytest.mark.parametrize("data", [X, HOLED, TABLE], ids=["array", "missing", "table"])
@pytest.mark.parametrize(
    ("model", "y"),
    [
        (xgb("XGBClassifier"), TWO),
        (xgb("XGBClassifier"), Y),
        (xgb(), NUMBERS),
        (xgb("XGBRFRegressor"), NUMBERS),
        (lgbm("LGBMClassifier"), np.array(["ä", "b", "c"])[Y]),
        (lgbm("LGBMClassifier"), TWO),
        (lgbm(), NUMBERS),
        (make_pipeline(StandardScaler(), xgb()), NUMBERS),
        (make_pipeline(StandardScaler(), lgbm("LGBMClassifier")), Y),
    ],
    ids=["xgb2", "xgb3", "xgbr", "xgbrf", "lgbm3", "lgbm2", "lgbmr", "scaled xgb", "scaled lgbm"],
)
def test_they_answer_as_they_do(run, fitted, model: Any, y: Any, data: Any) -> None:
    made = run(fitted(model, data, y), data[:200])
    assert made.report.worst < 1
    assert made.signature.inputs[0].columns == (tuple("abcde") if data is TABLE else ())


def test_trees_after_the_best_are_left_out(run) -> None:
    early = xgboost.XGBRegressor(n_estimators=100, n_jobs=1, early_stopping_rounds=2)
    early.fit(X[:300], X[:300, 0], eval_set=[(X[300:], NUMBERS[300:])], verbose=False)
    assert early.best_iteration < early.get_booster().num_boosted_rounds() - 1
    assert run(early, X).report.worst < 1


def test_in_a_table_of_several_types(run, fitted) -> None:
    table = TABLE.assign(kind=RANDOM.choice(["x", "y", "é"], 400))
    columns = ColumnTransformer([("k", OrdinalEncoder(), ["kind"]), ("n", StandardScaler(), ["a", "b"])])
    assert run(fitted(make_pipeline(columns, xgb("XGBClassifier")), table, TWO), table).report.worst < 1


def test_inside_of_others(run, fitted) -> None:
    stacked = StackingClassifier([("a", xgb("XGBClassifier")), ("b", lgbm("LGBMClassifier"))], cv=3)
    assert run(fitted(stacked, X, TWO), X).report.worst < 1
    several = run(fitted(MultiOutputRegressor(xgb()), X, X[:, :2]), X)
    assert str(several.signature.outputs[0]) == "prediction: float32[batch, 2]"


CATEGORIES = TABLE.assign(kind=pd.Categorical(RANDOM.choice(list("xyz"), 400)))
BY_KIND = NUMBERS + 5 * (CATEGORIES.kind == "x").to_numpy()


@pytest.mark.parametrize(
    ("model", "data", "y", "told"),
    [
        (xgb(enable_categorical=True), CATEGORIES, BY_KIND, r"XGBRegressor splits by categories \(kind\)"),
        (lgbm(), CATEGORIES, BY_KIND, "LGBMRegressor splits by categories"),
        (xgb(missing=-1), X.round(), NUMBERS, "XGBRegressor has missing=-1, and in ONNX only NaN is missing"),
        (xgb(booster="gblinear"), X, NUMBERS, "booster='gblinear'"),
        (xgb(booster="dart", rate_drop=0.5), X, NUMBERS, "booster='dart'"),
        (xgb(objective="reg:logistic"), X, TWO, "objective='reg:logistic', whose last step"),
        (xgb(), X, X[:, :2], "XGBRegressor has several targets"),
        (lgbm(boosting_type="rf", bagging_freq=1, bagging_fraction=0.5), X, NUMBERS, "boosting_type='rf'"),
        (lgbm(linear_tree=True), X, NUMBERS, "linear_tree=True"),
        (lgbm(zero_as_missing=True), X, NUMBERS, "zero_as_missing=True"),
        (lgbm(objective="fair"), X, NUMBERS, "objective='fair', which onnxmltools does not know"),
        (lgbm("LGBMClassifier", objective="multiclassova"), X, Y, "objective='multiclassova'"),
    ],
    ids=lambda each: "",
)
def test_what_comes_out_otherwise_is_refused(run, fitted, model: Any, data: Any, y: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told) as caught:
        run(fitted(model, data, y), data[:200])
    assert caught.value.hint


def test_native_boosters_and_rankers_are_refused(run) -> None:
    native = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, label=NUMBERS), 2)
    with pytest.raises(ExportError, match=r"A native xgboost Booster .* model\.load_model\('model\.json'\)"):
        run(native, X)
    native = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, label=NUMBERS), 2)
    with pytest.raises(ExportError, match=r"A native lightgbm Booster .* lightgbm\.LGBMClassifier"):
        run(native, X)
    ranker = lgbm("LGBMRanker").fit(X, Y, group=[200, 200])
    with pytest.raises(ExportError, match="LGBMRanker ranks"):
        run(ranker, X)

"""scikit-learn's models become ONNX that answers as they do, or are refused with the step and the reason."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

pytest.importorskip("skl2onnx")

from nbcloud.errors import ExportError, VerificationError
from nbcloud.models.export import Exported, Options, export

X, Y = load_digits(return_X_y=True)
X, Y = X[:600], Y[:600]


@pytest.fixture
def run(tmp_path: Path):
    def run(model: Any, sample: Any, **options: Any) -> Exported:
        return export(model, sample, name="m", path=tmp_path / "m.onnx", options=Options(**options))

    return run


def fitted(model: Any, x: Any = X, y: Any = Y) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)


def gives(made: Exported) -> list[str]:
    return [str(each) for each in made.signature.outputs]


CLASSES = ["label: int64[batch]", "probabilities: float32[batch, 10]"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (LogisticRegression(max_iter=50), CLASSES),
        (HistGradientBoostingClassifier(max_iter=5), CLASSES),
        (LinearSVC(), ["label: int64[batch]", "scores: float32[batch, 10]"]),
        (GradientBoostingRegressor(n_estimators=5), ["prediction: float32[batch, 1]"]),
        (LinearRegression(), ["prediction: float32[batch, 1]"]),
        (StandardScaler(), ["features: float32[batch, 64]"]),
        (IsolationForest(n_estimators=5), ["label: int64[batch]", "scores: float32[batch, 1]"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_kinds_of_estimators(run, model: Any, expected: list[str]) -> None:
    made = run(fitted(model), X[:50])
    assert [each.replace(", 1]", "]") for each in gives(made)] == [
        each.replace(", 1]", "]") for each in expected
    ]
    assert [str(each) for each in made.signature.inputs] == ["X: float32[batch, 64]"]
    assert made.report.worst <= 1
    takes_nan = isinstance(model, (HistGradientBoostingClassifier, StandardScaler))
    assert made.signature.inputs[0].finite != takes_nan


def test_trees_behind_a_scaler_are_exact_by_double_precision(run) -> None:
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0))
    made = run(fitted(model), X)
    assert "float64" in made.metadata.exporter
    assert made.signature.inputs[0].dtype == "float64"


def test_a_machine_of_two_classes_has_scores_of_the_right_sign(run) -> None:
    made = run(fitted(SVC(), X, Y > 4), X[:200])
    assert made.signature.outputs[1].name == "scores"
    assert made.signature.outputs[0].labels == (False, True)


def people(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": random.integers(18, 90, rows),
            "income": np.where(np.arange(rows) % 7 == 0, np.nan, random.normal(5e4, 2e4, rows)),
            "home town": random.choice(["Köln", "北京", "Paris"], rows),
        }
    )


def test_columns_of_several_types_are_inputs_by_their_names(run) -> None:
    table = people()
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    towns = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer([("n", numbers, ["age", "income"]), ("t", towns, ["home town"])])
    made = run(fitted(make_pipeline(columns, LogisticRegression()), table, table.age > 40), table[:100])
    assert {each.name: each.dtype for each in made.signature.inputs} == {
        "age": "float32",
        "income": "float32",
        "home town": "str",
    }
    assert "texts with accents" in made.report.compared


def test_a_table_of_numbers_is_one_input_that_knows_its_columns(run) -> None:
    table = people()[["age", "income"]].fillna(0.0)
    made = run(fitted(LinearRegression(), table, table.income), table[:50])
    assert made.signature.inputs[0].columns == ("age", "income")


TEXTS = np.array(["good movie", "bad movie", "très bien", "nicht gut", "很 好 看", "awful thing"] * 5)


def test_texts_that_onnx_takes_apart_otherwise_fail_and_the_step_is_named(run) -> None:
    y = np.array([1, 0, 1, 0, 1, 0] * 5)
    with pytest.raises(VerificationError) as caught:
        run(fitted(make_pipeline(TfidfVectorizer(), LogisticRegression()), TEXTS, y), TEXTS[:12])
    assert "first step that differs is 'tfidfvectorizer' (TfidfVectorizer)" in caught.value.message
    plain = TfidfVectorizer(token_pattern="[a-zA-Z0-9_]+")
    made = run(fitted(make_pipeline(plain, LogisticRegression()), TEXTS, y), TEXTS[:12])
    assert "texts with accents" in made.report.compared


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
            "FunctionTransformer is not supported",
        ),
        (GaussianMixture(2), "VerificationError"),
    ],
    ids=["function", "mixture"],
)
def test_what_can_not_be_is_refused_with_a_cause(run, model: Any, told: str) -> None:
    if told == "VerificationError":
        with pytest.raises(VerificationError):
            run(fitted(model), X[:50])
        return
    with pytest.raises(ExportError, match=told):
        run(fitted(model), X[:50])


def test_an_untrained_model_is_refused(run) -> None:
    with pytest.raises(ExportError, match=r"The model is not trained: .*SVC"):
        run(SVC(), X[:3])


def test_what_is_no_model_is_refused(run) -> None:
    with pytest.raises(ExportError, match=r"nbcloud can't export a builtins\.dict"):
        run({}, X[:3])

"""Texts are counted before the graph, wherever in a model they are, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

pytest.importorskip("skl2onnx")

from nbcloud.errors import ExportError
from nbcloud.inference.predictor import Predictor

TEXTS = np.array(["good movie", "bad movie", "très bien", "nicht gut", "很 好 看", "awful thing"] * 5)
Y = np.array([1, 0, 1, 0, 1, 0] * 5)


def test_words_with_accents_and_capitals_are_told_as_the_model_tells_them(run, fitted) -> None:
    model = fitted(make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression()), TEXTS, Y)
    made = run(model, TEXTS[:12])
    assert "texts with accents" in made.report.compared
    asked = ["TRÈS BIEN", "很 a 好", "a bad Movie!", ""]
    found = Predictor(made.path).predict(asked)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(asked), atol=1e-6)


def test_a_column_of_texts_may_be_counted_twice_and_encoded(run, fitted, people: pd.DataFrame) -> None:
    columns = ColumnTransformer(
        [
            ("words", TfidfVectorizer(), "home town"),
            ("characters", CountVectorizer(analyzer="char_wb"), "home town"),
            ("town", OneHotEncoder(), ["home town"]),
            ("age", StandardScaler(), ["age"]),
        ]
    )
    model = fitted(make_pipeline(columns, LogisticRegression()), people, people.member)
    made = run(model, people[["age", "income", "home town", "member"]][:50])
    assert [each["step"] for each in made.metadata.preprocessing] == ["count_words"] * 2
    found = Predictor(made.path).predict(people[50:])
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(people[50:]), atol=1e-4)


def test_several_counters_of_one_text(run, fitted) -> None:
    both = make_union(CountVectorizer(binary=True), TfidfVectorizer(analyzer="char", ngram_range=(2, 3)))
    made = run(fitted(make_pipeline(both, LinearSVC()), TEXTS, Y), list(TEXTS[:12]))
    assert len(made.metadata.preprocessing) == 2
    alone = run(fitted(CountVectorizer(), TEXTS), pd.Series(TEXTS[:12]))
    assert alone.signature.outputs[0].name == "features"


@pytest.mark.parametrize(
    ("counter", "told"),
    [
        (
            CountVectorizer(tokenizer=str.split, token_pattern=None),
            "a function of your own as its tokenizer=",
        ),
        (CountVectorizer(analyzer=str.split), "a function of your own as its analyzer="),
        (HashingVectorizer(n_features=8), "HashingVectorizer can't become ONNX: skl2onnx has no converter"),
    ],
    ids=["tokenizer", "analyzer", "hashing"],
)
def test_what_can_not_leave_python_is_refused(run, fitted, counter: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        run(fitted(make_pipeline(counter, LogisticRegression()), TEXTS, Y), TEXTS[:12])


def test_texts_among_other_columns_of_an_array_are_refused(run, fitted) -> None:
    array = np.stack([TEXTS, TEXTS], axis=1).astype(object)
    columns = ColumnTransformer([("first", CountVectorizer(), 0)])
    with pytest.raises(ExportError, match="with a column of its own"):
        run(fitted(make_pipeline(columns, LogisticRegression()), array, Y), array[:12])

"""Tables of any types become inputs that ONNX has, by the names of their columns, or are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

pytest.importorskip("skl2onnx")

from nbcloud.errors import ExportError
from nbcloud.inference.predictor import Predictor


def mixed() -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    towns = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return make_pipeline(
        ColumnTransformer(
            [("n", numbers, ["age", "income"]), ("t", towns, ["home town"]), ("b", "passthrough", ["member"])]
        ),
        LogisticRegression(),
    )


def test_columns_of_several_types_are_inputs_by_their_names(run, fitted, people: pd.DataFrame) -> None:
    made = run(fitted(mixed(), people, people.age > 40), people[:100])
    assert {each.name: each.dtype for each in made.signature.inputs} == {
        "age": "float32",
        "income": "float32",
        "home town": "str",
        "member": "float32",
    }
    assert "texts with accents" in made.report.compared


def test_an_encoder_that_found_nothing_infrequent_passes_over_what_is_unknown(
    run, fitted, people: pd.DataFrame
) -> None:
    encoder = OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist")
    model = make_pipeline(ColumnTransformer([("t", encoder, ["home town"])]), LogisticRegression())
    made = run(fitted(model, people, people.age > 40), people[:100])
    assert "texts with accents" in made.report.compared


def test_columns_may_be_given_by_name_without_a_table(run, fitted, people: pd.DataFrame) -> None:
    model, rows = fitted(mixed(), people, people.age > 40), people[:100]
    columns = {name: rows[name].to_numpy() for name in rows}
    made = run(model, columns | {"age": columns["age"].reshape(-1, 1)})
    assert made.signature.inputs == run(model, rows).signature.inputs
    with pytest.raises(ExportError, match=r"column 'age' of the sample has the shape \[50, 2\]"):
        run(model, columns | {"age": columns["age"].reshape(-1, 2)})
    with pytest.raises(ExportError, match="different numbers of rows: 'age' 7, 'income' 100"):
        run(model, columns | {"age": columns["age"][:7]})


def test_columns_of_pandas_own_types(run, fitted, people: pd.DataFrame) -> None:
    own = people.assign(
        age=people.age.astype("Int64").where(people.age > 20),
        member=people.member.astype("boolean"),
        **{"home town": people["home town"].astype("category")},
    )
    assert run(fitted(mixed(), own, people.age > 40), own[:100]).report.worst < 1


def test_a_table_of_numbers_is_one_input_that_knows_its_columns(run, fitted, people: pd.DataFrame) -> None:
    table = people[["age", "income", "member"]].fillna(0.0)
    made = run(fitted(LinearRegression(), table, table.income), table[:50])
    assert made.signature.inputs[0].columns == ("age", "income", "member")


def test_numbers_that_single_precision_has_not(run, fitted) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"id": 2**24 + np.arange(300), "kind": random.integers(0, 3, 300)})
    columns = ColumnTransformer([("id", OrdinalEncoder(), ["id"])], remainder="passthrough")
    model = make_pipeline(columns, RandomForestClassifier(10, random_state=0))
    assert run(fitted(model, table, table["id"] % 2), table).report.worst < 1


def test_what_is_missing_is_filled_in_in_double_precision_too(run, fitted) -> None:
    seconds = np.array([2.0**30 + 1, np.nan, *(2.0**30 + 2 * np.arange(98))])[:, None]
    made = run(fitted(make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), seconds), seconds)
    assert made.signature.inputs[0].dtype == "float64"
    assert made.report.worst < 0.1


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_large_whole_numbers_are_given_in_double_precision(run, fitted, kind: Any) -> None:
    numbers = (2**24 + np.arange(400)).astype(kind)[:, None]
    model = fitted(HistGradientBoostingRegressor(max_iter=5), numbers, np.arange(400) % 7)
    made = run(model, numbers[:40])
    assert made.signature.inputs[0].dtype == "float64"
    found = Predictor(made.path).predict(numbers)
    np.testing.assert_allclose(found.ravel(), model.predict(numbers), rtol=1e-5)


def test_columns_may_be_called_as_outputs_are(run, fitted) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({name: random.normal(size=100) for name in ("label", "variable", "variable1")})
    columns = ColumnTransformer([("n", StandardScaler(), ["label", "variable"])], remainder="passthrough")
    made = run(fitted(make_pipeline(columns, LogisticRegression()), table, table.label > 0), table)
    assert [each.name for each in made.signature.inputs] == ["label", "variable", "variable1"]
    assert [each.name for each in made.signature.outputs] == ["label_out", "probabilities"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"day": pd.Timestamp("2026-01-01")},
            r"The column 'day' has times \(datetime64.*\), which ONNX has not",
        ),
        ({"home town": [None, *["Köln"] * 299]}, r"The column 'home town' has a .* among texts"),
        ({"home town": [{}, *["Köln"] * 299]}, r"The column 'home town' has a dict \(\{\}\) among texts"),
    ],
    ids=["times", "missing", "dictionaries"],
)
def test_what_onnx_has_not_is_refused_by_its_column(run, fitted, people, change: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        run(fitted(mixed(), people, people.age > 40), people.assign(**change)[:50])


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (np.zeros((0, 2)), r"The sample is empty\. Give a few rows"),
        (np.zeros((5, 3)), r"The model itself refuses the sample: ValueError: X has 3 features"),
        ([{"a": 1}], r"The model takes dictionaries, which ONNX has not"),
        ([[1], [1, 2]], r"The sample is no table"),
        (None, r"The sample has a NoneType among texts|which no estimator of numbers or texts takes"),
        (np.array(["2026-01-01"], "datetime64[D]"), r"The sample is of the type datetime64\[D\]"),
    ],
    ids=["empty", "narrow", "records", "ragged", "none", "times"],
)
def test_a_sample_that_can_not_be_is_refused(run, fitted, sample: Any, told: str) -> None:
    model = fitted(LinearRegression(), np.eye(2), np.arange(2))
    with pytest.raises(ExportError, match=told):
        run(model, sample)

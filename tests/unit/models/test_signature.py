"""What a model takes: arrays, tables, texts; and what is said when it is given something else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nbcloud.errors import ModelError, SchemaError
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.signature import Signature, Tensor

MATRIX = Signature((Tensor("X", "float32", ("batch", 2), columns=("age", "income")),), ())
TABLE = Signature(
    (
        Tensor("age", "int64", ("batch", 1)),
        Tensor("city", "str", ("batch", 1)),
        Tensor("tall", "float32", ("batch", 1)),
    ),
    (),
)


def test_a_column_of_one_dimension_is_refused_with_what_to_write() -> None:
    columns = {"age": np.ones(3, np.int64), "city": np.array(["a"] * 3), "tall": np.ones(3)}
    with pytest.raises(SchemaError, match=r"'age' has 1 dimension.* as a column: array\.reshape\(-1, 1\)"):
        TABLE.feeds(columns)


def test_an_array_is_cast_where_nothing_is_lost() -> None:
    assert MATRIX.feeds([[1, 2]])["X"].dtype == np.float32
    given = np.ones((3, 2), np.float32)
    assert MATRIX.feeds(given)["X"] is given


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.ones((2, 3)), "has the shape [2, 3]"),
        (np.ones(2), "has 1 dimension, [2]"),
        (np.array([["a", "b"]]), "texts or mixed values"),
        ({"X": np.ones((1, 2)), "Y": 1}, "no input 'Y'"),
        ({}, "'X' is missing"),
    ],
)
def test_what_can_not_be_right_is_refused_by_name(given, told: str) -> None:
    with pytest.raises(SchemaError) as caught:
        MATRIX.feeds(given)
    assert told in caught.value.message
    assert "X" in str(caught.value)


def test_fractions_and_numbers_that_do_not_fit_are_no_whole_numbers() -> None:
    whole = Tensor("n", "int8", ("batch",))
    assert whole.accept([1, -3]).dtype == np.int8
    with pytest.raises(SchemaError, match="fractions"):
        whole.accept([1.0])
    with pytest.raises(SchemaError, match="do not fit into int8"):
        whole.accept([300])


def test_columns_of_a_table_are_found_by_name_in_any_order() -> None:
    table = pd.DataFrame({"income": [10.0, 20.0], "other": ["x", "y"], "age": [1, 2]})
    np.testing.assert_array_equal(MATRIX.feeds(table)["X"], [[1, 10], [2, 20]])


def test_columns_of_several_types_are_inputs_of_their_own() -> None:
    table = pd.DataFrame(
        {"tall": [True, False], "city": ["Köln", "北京"], "age": pd.array([1, 2], dtype="Int64")}
    )
    feeds = TABLE.feeds(table)
    assert feeds["city"].tolist() == [["Köln"], ["北京"]]
    assert {name: value.shape for name, value in feeds.items()} == dict.fromkeys(
        ("age", "city", "tall"), (2, 1)
    )


def test_a_wrong_column_is_named() -> None:
    good = pd.DataFrame({"age": [1], "city": ["Paris"], "tall": [1.0]})
    for changed, told in (
        (good.rename(columns={"city": "citty"}), "The column 'city' is missing. Did you mean 'citty'?"),
        (good.assign(city=[None]), "The column 'city' has None, which is no text."),
        (good.assign(age=["young"]), "The column 'age' "),
        (good.assign(age=[1.5]), "The column 'age' "),
    ):
        with pytest.raises(SchemaError) as caught:
            TABLE.feeds(changed)
        assert told in str(caught.value)


def test_what_is_missing_in_numbers_is_nan_or_refused() -> None:
    table = pd.DataFrame({"age": [1.0, 2.0], "income": pd.array([5, None], dtype="Int64")})
    assert np.isnan(MATRIX.feeds(table)["X"][1, 1])
    finite = Signature((Tensor("X", "float32", ("batch", 2), columns=("age", "income"), finite=True),), ())
    with pytest.raises(SchemaError, match="has NaN, which this model does not take"):
        finite.feeds(table)


def test_metadata_comes_back_from_its_text_and_a_later_format_is_refused() -> None:
    metadata = Metadata(TABLE, name="people", metrics={"accuracy": 0.5}, notes=["北京"])
    assert Metadata.of({KEY: metadata.to_text()}) == metadata
    assert Metadata.of({}) is None
    for text, told in (
        (metadata.to_text().replace('"format": 1', '"format": 2'), "pip install -U nbcloud"),
        ("{", "can't be read"),
        ("[]", "can't be read"),
        ('{"format": 1}', "can't be read"),
    ):
        with pytest.raises(ModelError) as caught:
            Metadata.from_text(text)
        assert told in str(caught.value)

"""Pictures and tables become what the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcloud.commands.samples import read_sample
from nbcloud.errors import SchemaError, UsageError
from nbcloud.inference.edge import EdgeModel, load
from nbcloud.inference.edge.inputs import read
from nbcloud.models import tables
from nbcloud.models.signature import Tensor
from tests.bundles import same


def model_of(folder: Path, tensor: Tensor, golden: np.ndarray, **options: Any) -> EdgeModel:
    model = load(same(folder, tensor, golden, **options))
    model.self_test()
    return model


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Red above blue."""
    from PIL import Image

    pixels = np.zeros((8, 6, 3), np.uint8)
    pixels[:4, :, 0], pixels[4:, :, 2] = 255, 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return tmp_path / "x.png"


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_picture_in_the_order_and_size_of_the_model(tmp_path: Path, picture: Path, dtype: str) -> None:
    first = model_of(tmp_path, Tensor("x", dtype, ("n", 3, 4, 4)), np.zeros((1, 3, 4, 4), dtype))
    seen = first.predict(read(first, picture))["y"]
    assert (seen.shape, seen.dtype) == ((1, 3, 4, 4), dtype)
    assert seen[0, :, 0, 0].tolist() == [255, 0, 0]
    assert seen[0, :, 3, 3].tolist() == [0, 0, 200]
    last = model_of(tmp_path, Tensor("x", dtype, ("n", "height", "width", 1)), np.zeros((1, 2, 2, 1), dtype))
    grey = last.predict(read(last, picture))["y"]
    assert grey.shape == (1, 8, 6, 1)
    assert [grey[0, 0, 0, 0], grey[0, 7, 0, 0]] == [76, 23]


def test_a_picture_for_a_model_of_none(tmp_path: Path, picture: Path) -> None:
    model = model_of(tmp_path, Tensor("x", "float32", ("n", 3)), np.zeros((1, 3), np.float32))
    with pytest.raises(SchemaError, match=r"The model takes no pictures. It takes x: float32\[n, 3\]"):
        read(model, picture)


def test_a_table_goes_by_its_column_names(tmp_path: Path) -> None:
    tensor = Tensor("x", "float32", ("n", 2), columns=("age", "height"))
    model = model_of(tmp_path, tensor, np.zeros((1, 2), np.float32))
    (tmp_path / "x.csv").write_text("height,name,age\n1.5,Ada,30\n,Bob,40\n")
    np.testing.assert_array_equal(
        model.predict(read(model, tmp_path / "x.csv"))["y"], [[30, 1.5], [40, np.nan]]
    )
    (tmp_path / "x.csv").write_text("height,name\n1.5,Ada\n")
    with pytest.raises(SchemaError, match=r"The column 'age' is missing. .* has: height, name"):
        read(model, tmp_path / "x.csv")


def test_one_rule_for_the_first_row_here_and_where_models_are_made(tmp_path: Path) -> None:
    model = model_of(tmp_path, Tensor("x", "float32", ("n", 3)), np.zeros((1, 3), np.float32))
    path = tmp_path / "x.csv"
    for first, rows in (("0,1,2", 1), ("a,b,c", 1), ("0.0,1.0,2.0", 2), ("4,5,6", 2), ("4,,NA", 2)):
        path.write_text(f"{first}\n1,2,3\n")
        assert len(model.predict(read(model, path))["y"]) == rows, first
        assert len(read_sample(path)) == rows, first
    path.write_text("a,b,c\n")
    with pytest.raises(UsageError, match="has names of columns, and no rows"):
        read(model, path)


def test_what_is_missing_is_so_here_and_where_models_are_made(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert pandas._libs.parsers.STR_NA_VALUES == tables.MISSING
    tensor = Tensor("x", "str", ("n", 2), columns=("city", "land"))
    texts = model_of(tmp_path, tensor, np.array([["a", "b"]], dtype=object))
    path = tmp_path / "x.csv"
    for cell in ("", "NA"):
        path.write_text(f"city,land\nOslo,N\n{cell},N\n")
        with pytest.raises(SchemaError, match=rf"The column 'city' has '{cell}', which is no text. Fill or"):
            read(texts, path)
        with pytest.raises(SchemaError, match=r"The column 'city' has nan, which is no text. Fill or"):
            texts.predict(read_sample(path))
    numbers = model_of(tmp_path, Tensor("x", "float32", ("n", 2)), np.zeros((1, 2), np.float32))
    path.write_text("a,b\nNA,1\n,1\n")
    for data in (read(numbers, path), read_sample(path)):
        np.testing.assert_array_equal(numbers.predict(data)["y"], [[np.nan, 1], [np.nan, 1]])


@pytest.mark.parametrize(("dtype", "cells", "found"), [("uint8", "1.0,2", [1, 2]), ("uint8", "1.5,2", None)])
def test_whole_numbers_may_have_a_point(tmp_path: Path, dtype: str, cells: str, found: list[int]) -> None:
    model = model_of(tmp_path, Tensor("x", dtype, ("n", 2)), np.zeros((1, 2), dtype))
    (tmp_path / "x.csv").write_text(f"a,b\n{cells}\n")
    if found:
        assert read(model, tmp_path / "x.csv").tolist() == [found]
        return
    with pytest.raises(SchemaError, match=r"The column 'a' has '1.5', which is no whole number"):
        read(model, tmp_path / "x.csv")


def test_a_table_of_texts_for_a_model_with_steps_before_its_graph(tmp_path: Path) -> None:
    step = {
        "step": "look_up",
        "takes": {"name": "text", "dtype": "str", "shape": ["n", 1]},
        "gives": "x",
        "dtype": "float32",
        "vocabulary": ["good", "bad"],
        "first": 1,
        "unknown": 0,
        "mode": "int",
    }
    model = model_of(
        tmp_path,
        Tensor("x", "float32", ("n", 1)),
        np.array([["good"], ["bad"]], dtype=object),
        preprocessing=[step],
    )
    (tmp_path / "x.csv").write_text("text\nbad\nworse\n")
    assert [str(each) for each in model.takes] == ["text: str[n, 1]"]
    assert model.predict(read(model, tmp_path / "x.csv"))["y"].tolist() == [[2], [0]]


def test_texts(tmp_path: Path) -> None:
    model = model_of(tmp_path, Tensor("x", "str", ("n", 1)), np.array([["a"]], dtype=object))
    (tmp_path / "x.txt").write_text("Ærø\n北京 1\n", encoding="utf-8")
    assert model.predict(read(model, tmp_path / "x.txt"))["y"].tolist() == [["Ærø"], ["北京 1"]]
    assert model.golden_inputs["x"].tolist() == [["a"]]


def test_a_table_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tensor = Tensor("x", "float32", ("n", 2), columns=("age", "height"))
    model = model_of(tmp_path, tensor, np.zeros((1, 2), np.float32))
    table = pandas.DataFrame({"height": [1.5], "age": [30]})
    np.testing.assert_array_equal(model.predict(table)["y"], [[30, 1.5]])

"""A loaded model reads an array as it is when it fits, and says what does not fit when it does not."""

import numpy as np
import pytest

from nbcloud.errors import SchemaError
from nbcloud.models.reading import Reader
from nbcloud.models.signature import Signature, Tensor


def reader(*inputs):
    return Reader([], Signature(inputs, ()))


@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (0, 3)])
def test_an_array_that_fits_is_fed_as_it_is(shape):
    array = np.zeros(shape, "float32")
    fed = reader(Tensor("x", "float32", ("batch", 3), finite=True))(array)
    assert list(fed) == ["x"]
    assert fed["x"] is array


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((2, 4), "float32"), r"has the shape \[2, 4\]"),
        (np.zeros(3, "float32"), "has 1 dimension,"),
        (np.array([[1, np.nan, 2]], "float32"), "has NaN"),
        (np.array([["a", "b", "c"]]), "has texts"),
    ],
)
def test_one_that_does_not_fit_is_refused_with_the_reason(array, why):
    with pytest.raises(SchemaError, match=why):
        reader(Tensor("x", "float32", ("batch", 3), finite=True))(array)


def test_other_types_are_cast_and_infinite_numbers_are_not_holes():
    read = reader(Tensor("x", "float32", ("batch", 2), finite=True))
    assert read(np.array([[1, 2]]))["x"].dtype == np.float32
    huge = np.array([[np.inf, -np.inf], [3e38, -3e38]], "float32")
    assert read(huge)["x"] is huge


def test_half_precision_holes_are_found():
    with pytest.raises(SchemaError, match="has NaN"):
        reader(Tensor("x", "float16", (2,), finite=True))(np.array([np.nan, 60000], "float16"))
    assert reader(Tensor("x", "float16", (2,), finite=True))(np.array([60000, 60000], "float16"))

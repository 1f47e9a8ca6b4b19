"""Samples of another size."""

from __future__ import annotations

import numpy as np
import pytest

from nbcloud.models.signature import Tensor
from nbcloud.models.sizes import resized

INPUTS = (Tensor("mask", "int64", ("batch", "length")),)


@pytest.mark.parametrize("size", [7, 8, 11, 12, 13, 30])
def test_a_mask_that_hides_the_end_never_hides_all_before_some_place(size: int) -> None:
    mask = np.array([[1] * 12, [1] * 9 + [0] * 3])
    found = resized(INPUTS, {"mask": mask}, "length", size)["mask"]
    assert found.shape == (2, size)
    assert found[:, 0].all()


@pytest.mark.parametrize(("name", "axis"), [("batch", 0), ("length", 1)])
@pytest.mark.parametrize("size", [3, 4, 9])
def test_no_place_keeps_what_it_had(name: str, axis: int, size: int) -> None:
    before = np.arange(16).reshape(4, 4)
    after = np.moveaxis(resized(INPUTS, {"mask": before}, name, size)["mask"], axis, 0)
    assert len(after) == size
    for one, other in zip(np.moveaxis(before, axis, 0), after, strict=False):
        assert not np.array_equal(one, other)

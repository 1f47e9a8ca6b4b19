"""Golden samples survive being members, and differences are found; postprocessing does what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbcloud.models.bundle import postprocess
from nbcloud.models.bundle.golden import difference, from_member, to_member
from nbcloud.models.signature import Signature, Tensor


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.zeros((0, 4), np.float32),
        np.float64(3.5),
        np.array([[True], [False]]),
        np.array([["a", "Ærø 北京"], ["", "\n"]], dtype=object),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
    ids=lambda array: str(np.asarray(array).dtype),
)
def test_there_and_back(array: Any) -> None:
    ending, content = to_member(array)
    found = from_member(f"x{ending}", content)
    np.testing.assert_array_equal(found, np.asarray(array))
    assert found.shape == np.shape(array)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x02\x00", b"x" * 100], ids=len)
def test_what_is_no_array(content: bytes) -> None:
    with pytest.raises(ValueError):
        from_member("x.npy", content)


def test_a_size_that_is_a_lie() -> None:
    content = to_member(np.zeros(3))[1].replace(b"(3,), ", b"(3000000000,), "[:6] and b"(9,), ")
    with pytest.raises(ValueError, match="it has another size than it says"):
        from_member("x.npy", content)


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        ([1.0, 2.0], [1.0, 2.0009], ""),
        ([1.0, 2.0], [1.0, 2.01], "at [1] 2.0 instead of 2.01"),
        ([np.nan, np.inf], [np.nan, np.inf], ""),
        ([1.0, np.inf], [1.0, -np.inf], "at [1] inf instead of -inf"),
        ([1.0, 1.0], [1.0, np.nan], "at [1] 1.0 instead of nan"),
        ([[0.1, 500.0]], [[0.1, 500.1]], ""),
        ([1, 2], [1, 3], "at [1] 2 instead of 3"),
        (["a"], ["b"], "at [0] a instead of b"),
        ([1.0], [[1.0]], "shape [1] instead of [1, 1]"),
        ([], [], ""),
        (3.0, 4.0, "3.0 instead of 4.0"),
    ],
    ids=str,
)
def test_differences(found: Any, expected: Any, told: str) -> None:
    assert difference(found, expected, 1e-3) == told


def test_postprocessing() -> None:
    signature = Signature(
        (Tensor("x", "float32", ("n", 2)),),
        (Tensor("logits", "float32", ("n", 2), labels=("no", "yes")), Tensor("size", "float32", ("n",))),
    )
    logits, size = np.array([[0.0, 2.0], [900.0, 1.0]]), np.array([0.2, 0.7])
    steps = [
        {"step": "argmax", "output": "logits", "to": "answer"},
        {"step": "softmax", "output": "logits"},
        {"step": "above", "output": "size", "threshold": 0.5, "to": "large"},
        {"step": "sigmoid", "output": "size"},
    ]
    postprocess.check(steps, ["logits", "size"])
    made = postprocess.apply(steps, signature, {"logits": logits, "size": size})
    assert list(made["answer"]) == ["yes", "no"]
    np.testing.assert_allclose(made["logits"].sum(axis=-1), 1)
    assert list(made["large"]) == [False, True]
    np.testing.assert_allclose(made["size"], 1 / (1 + np.exp(-size)))

"""What a verification finds: ONNX models that answer as the original on its sample, and otherwise elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcloud.errors import VerificationError
from nbcloud.models.exportable import Conversion
from nbcloud.models.signature import Feeds, Tensor
from nbcloud.models.verify import Report, verify

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
RANDOM = np.random.default_rng(7)


class Formula:
    """A model that numpy computes."""

    framework = "numpy"
    versions: dict[str, str] = {}  # noqa: RUF012 - as the protocol says

    def __init__(self, formula: Callable[[Any], Any], sample: Any, shape: tuple[int | str, ...]) -> None:
        self.formula = formula
        self.feeds = {"x": sample}
        self.inputs = (Tensor("x", str(sample.dtype), shape),)

    def predict(self, feeds: Feeds) -> Feeds:
        return {"y": self.formula(feeds["x"])}

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        raise NotImplementedError

    def convert(self, *_: Any) -> Any:
        raise NotImplementedError


def graph(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), str(path))
    return path


def check(model: Formula, text: str, folder: Path) -> Report:
    outputs = (Tensor("y", str(model.formula(model.feeds["x"]).dtype), model.inputs[0].shape),)
    made = Conversion(graph(text, folder / "m.onnx"), model.inputs, outputs, "by hand", 18)
    return verify(made, model, evidence=folder / "evidence")


POSITIVE = RANDOM.uniform(0.1, 0.9, size=(6, 3)).astype("float32")
WRONG = {
    "the sign": (np.copy, POSITIVE, "y = Relu(x)", "the other sign"),
    "the end of a range": (
        np.copy, POSITIVE, "l = Constant<value_float = 0.0>() h = Constant<value_float = 6.0>() n = Neg(h)"
        " y = Clip(x, n, h)", "large values",
    ),
    "where it rounds": (np.ceil, POSITIVE, "a = Ceil(x) y = Abs(a)", "large values"),
    "zero": (
        lambda x: np.where(x == 0, np.float32(5), x), POSITIVE, "y = Identity(x)", "zeros",
    ),
    "a batch that is baked in": (
        lambda x: x / len(x), POSITIVE, "n = Constant<value_float = 6.0>() y = Div(x, n)", "batch = 1",
    ),
    "whole numbers in single precision": (
        np.copy, np.array([[2**24, 7], [2**24 + 2, 9], [2**24 + 40, 1]], "int64"),
        "f = Cast<to = 1>(x) y = Cast<to = 7>(f)", "whole numbers",
    ),
    "masks, though those of the sample are full": (
        lambda x: np.where(x == 0, 7, x), np.arange(1, 21).reshape(4, 5), "y = Identity(x)",
        "zeros at the ends",
    ),
    "whole numbers that the sample has not": (
        lambda x: np.where(x == 3, 0, x), np.array([[1, 1], [6, 9], [2, 2], [8, 5]] * 9, "int64"),
        "y = Identity(x)", "whole numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_it_finds_what_the_sample_does_not_show(which: str, tmp_path: Path) -> None:
    formula, sample, nodes, case = WRONG[which]
    kind = "int64" if sample.dtype == np.int64 else "float"
    width = sample.shape[1]
    text = f"g ({kind}[batch, {width}] x) => ({kind}[batch, {width}] y) {{ {nodes} }}"
    with pytest.raises(VerificationError, match=case) as told:
        check(Formula(formula, sample, ("batch", width)), text, tmp_path)
    assert "output 'y'" in str(told.value)
    kept = np.load(tmp_path / "evidence" / "inputs.npz")["x"]
    framework = np.load(tmp_path / "evidence" / "framework.npz")["y"]
    np.testing.assert_array_equal(formula(kept), framework)
    assert (np.load(tmp_path / "evidence" / "onnx.npz")["y"] != framework).any()


def test_holes_that_the_two_answer_otherwise_are_refused_from_then_on(tmp_path: Path) -> None:
    text = (
        "g (float[batch, 3] x) => (float[batch, 3] y)"
        "{ n = IsNaN(x) o = Constant<value_float = 0.0>() y = Where(n, o, x) }"
    )
    assert check(Formula(np.copy, POSITIVE, ("batch", 3)), text, tmp_path).finite_only


def test_holes_in_the_sample_itself_are_compared(tmp_path: Path) -> None:
    sample = np.where(POSITIVE > 0.6, np.float32(np.nan), POSITIVE)
    text = (
        "g (float[batch, 3] x) => (float[batch, 3] y)"
        "{ n = IsNaN(x) o = Constant<value_float = 0.0>() y = Where(n, o, x) }"
    )
    with pytest.raises(VerificationError, match=r"0\.0 instead of nan"):
        check(Formula(np.copy, sample, ("batch", 3)), text, tmp_path)


def test_what_only_rounding_makes_is_told_and_not_refused(tmp_path: Path) -> None:
    def sine(x: Any) -> Any:  # the last digit of what it is taken of is another one
        return np.sin(x * np.float32(3) / np.float32(3))

    text = "g (float[batch, 3] x) => (float[batch, 3] y) { y = Sin(x) }"
    report = check(Formula(sine, POSITIVE * 10, ("batch", 3)), text, tmp_path)
    assert list(report.unsteady) == ["large values"]
    assert 1 < report.unsteady["large values"]["y"] < 100
    text = text.replace("Sin(x)", "Cos(x)")
    with pytest.raises(VerificationError, match="the sample"):
        check(Formula(sine, POSITIVE * 10, ("batch", 3)), text, tmp_path)


def test_another_answer_altogether_is_rounding_only_where_the_models_own_is_too(tmp_path: Path) -> None:
    def chance(x: Any) -> Any:
        return np.sign(np.sin(x * np.float32(300) / np.float32(3)))

    def wrong(x: Any) -> Any:
        return np.where(np.abs(x) > 100, -np.sign(x), np.sign(x))

    sample = np.random.default_rng(1).uniform(0.5, 2.5, (64, 3)).astype(np.float32)
    head = "g (float[batch, 3] x) => (float[batch, 3] y)"
    text = f"{head} {{ c = Constant <value = float {{100}}> () a = Mul(x, c) s = Sin(a) y = Sign(s) }}"
    report = check(Formula(chance, sample, ("batch", 3)), text, tmp_path)
    assert report.unsteady["large values"]["y"] == pytest.approx(2e4)
    with pytest.raises(VerificationError, match="large values"):
        check(Formula(wrong, sample, ("batch", 3)), f"{head} {{ y = Sign(x) }}", tmp_path)


def test_the_place_of_the_largest_of_equals_may_be_another(tmp_path: Path) -> None:
    text = """m (float[n, 3] x) => (int64[n, 3] y) {
        k = Constant<value = int64[1] {3}>() values, y = TopK<axis = 1>(x, k) }"""
    sample = RANDOM.normal(size=(6, 3)).astype("float32")

    def from_behind(x: Any) -> Any:
        return np.argsort(-x[:, ::-1], axis=1, kind="stable") * -1 + 2

    report = check(Formula(from_behind, sample, ("n", 3)), text, tmp_path)
    assert report.ties >= 1
    with pytest.raises(VerificationError, match="on 'the sample'"):
        check(Formula(from_behind, np.zeros((6, 3), "float32"), ("n", 3)), text, tmp_path)
    with pytest.raises(VerificationError, match="on 'the other sign'"):
        check(Formula(lambda x: from_behind(np.abs(x)), np.abs(sample), ("n", 3)), text, tmp_path)


class Votes(Formula):
    """A model that gives a class and the votes for each."""

    def predict(self, feeds: Feeds) -> Feeds:
        votes = np.round(feeds["x"])
        return {"kind": votes.argmax(axis=1), "votes": votes}


@pytest.mark.parametrize("scores", [{"kind": "votes"}, {}])
def test_a_class_of_equal_scores_may_be_another_whatever_they_are_called(
    tmp_path: Path, scores: dict[str, str]
) -> None:
    text = """m (float[n, 3] x) => (int64[n] kind, float[n, 3] votes) {
        votes = Round(x) kind = ArgMax<axis = 1, keepdims = 0, select_last_index = 1>(votes) }"""
    sample = np.array([[1, 20, 3], [30, 2, 10], [5, 6, 70], [8, 90, 1]], "float32")
    model = Votes(np.round, sample, ("n", 3))
    outputs = (Tensor("kind", "int64", ("n",)), Tensor("votes", "float32", ("n", 3)))
    made = Conversion(graph(text, tmp_path / "m.onnx"), model.inputs, outputs, "by hand", 18, scores=scores)
    if scores:
        assert verify(made, model, evidence=tmp_path / "evidence").ties >= 1
    else:
        with pytest.raises(VerificationError, match="on 'zeros': output 'kind'"):
            verify(made, model, evidence=tmp_path / "evidence")


def test_what_the_model_itself_refuses_is_left_out_and_told(tmp_path: Path) -> None:
    def no_negatives(x: Any) -> Any:
        if (x < 0).any():
            raise ValueError("no negative numbers, please.\nReally.")
        return x

    text = "g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu(x) }"
    report = check(Formula(no_negatives, POSITIVE, ("batch", 3)), text, tmp_path)
    assert report.skipped["the other sign"] == "ValueError: no negative numbers, please. Really"


def test_a_sample_that_the_model_refuses_is_told(tmp_path: Path) -> None:
    def never(_: Any) -> Any:
        raise ValueError("never")

    model = Formula(np.copy, POSITIVE, ("batch", 3))
    made = Conversion(
        graph("g (float[batch, 3] x) => (float[batch, 3] y) { y = Relu(x) }", tmp_path / "m.onnx"),
        model.inputs,
        model.inputs,
        "by hand",
        18,
    )
    model.formula = never
    with pytest.raises(VerificationError, match="The model itself refuses the sample: ValueError: never"):
        verify(made, model, evidence=tmp_path / "evidence")


def test_a_file_that_onnxruntime_can_not_load_is_told(tmp_path: Path) -> None:
    text = "g (float[batch, 3] x) => (float[batch, 3] y) { y = Unheard(x) }"
    with pytest.raises(VerificationError, match="onnxruntime can't load the ONNX model"):
        check(Formula(np.copy, POSITIVE, ("batch", 3)), text, tmp_path)

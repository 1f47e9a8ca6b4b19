"""What Keras' operations become in ONNX, and what is told of the sizes that they give."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcloud.errors import ExportError
from nbcloud.inference.predictor import Predictor
from nbcloud.models.export import Exported, Options, export

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

RANDOM = np.random.default_rng(0)
Export = Callable[..., Exported]


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype("float32")


@pytest.fixture
def exported(tmp_path: Path) -> Export:
    def run(model: Any, sample: Any, **options: Any) -> Exported:
        return export(model, sample, name="m", path=tmp_path / "m.onnx", **options)

    return run


def functional(compute: Callable[[Any], Any], *shape: int | None, dtype: str = "float32") -> Any:
    values = keras.Input(shape, name="z", dtype=dtype)
    return keras.Model(values, compute(values))


O = keras.ops  # noqa: E741
OPERATIONS = {
    "the place of the largest": lambda z: [O.argmax(z, 1), O.argmin(z, 1)],
    "logarithms of more than one": lambda z: O.log1p(O.abs(z)),
    "fractions divided to whole numbers": lambda z: [z // 0.3, z % 0.5],
    "whole numbers divided": lambda z: [O.cast(z * 9, "int32") // 4, O.cast(z * 9, "int32") % 4],
    "signs": lambda z: O.cast(O.signbit(z), "float32"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_answer_as_keras_does(operation: str, exported: Export) -> None:
    made = exported(functional(OPERATIONS[operation], 8), numbers(3, 8))
    assert made.report.worst <= 1
    assert "the other sign" in made.report.compared


def test_negative_whole_numbers_that_no_sample_had_are_divided_as_keras_does(exported: Export) -> None:
    made = exported(
        functional(lambda z: [z // 4, z % 4], None, dtype="int64"), np.array([[3, 8, 9], [1, 0, 4]])
    )
    answers = Predictor(made.path).predict(np.array([[-3, -4]]))
    assert [value.tolist() for value in answers.values()] == [[[-1, -1]], [[1, 0]]]


def test_images_of_any_size_are_enlarged(exported: Export) -> None:
    model = keras.Sequential(
        [
            keras.Input((None, None, 2)),
            keras.layers.Conv2D(3, 3),
            keras.layers.UpSampling2D(2, interpolation="bilinear"),
        ]
    )
    made = exported(model, numbers(2, 5, 6, 2))
    # The sample's six columns are six again behind both layers: that they are so by chance is seen.
    assert [str(each) for each in made.signature.outputs] == ["output: float32[batch, output_1, output_2, 3]"]


def test_the_sizes_of_outputs_are_found_by_asking(exported: Export) -> None:
    class Sizes(keras.Model):
        def call(self, values: Any) -> Any:
            return {
                "pairs": O.matmul(values, O.transpose(values)),
                "rows": values,
                "sum": O.sum(values, 0),
                "values": O.reshape(values, (-1,)),
            }

    told = [str(each) for each in exported(Sizes(), numbers(3, 4)).signature.outputs]
    assert told == [
        "pairs: float32[batch, batch]",
        "rows: float32[batch, 4]",
        "sum: float32[4]",
        "values: float32[values_0]",
    ]
    fixed = functional(lambda z: [z + O.linspace(0.0, 1.0, 4), O.linspace(0.0, 1.0, 5) + O.sum(z)], 4)
    told = [str(each) for each in exported(fixed, numbers(3, 4)).signature.outputs]
    assert told == ["output_0: float32[batch, 4]", "output_1: float32[5]"]
    none = exported(fixed, numbers(3, 4), options=Options(dynamic=False)).signature
    assert [str(each) for each in none.outputs] == ["output_0: float32[3, 4]", "output_1: float32[5]"]


def test_a_model_that_answers_with_placeholders_is_refused_with_a_sentence(exported: Export) -> None:
    model = functional(lambda z: O.cond(O.sum(z) > 0, lambda: z * 2, lambda: z - 1), 4)
    with pytest.raises(ExportError, match="The model answers with a placeholder of Keras'"):
        exported(model, numbers(3, 4))

"""Keras and TensorFlow models become ONNX that answers as they do, or are refused with a sentence that helps."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcloud.errors import ExportError, SchemaError, UsageError, VerificationError
from nbcloud.inference.predictor import Predictor
from nbcloud.models import onnxfile, steps
from nbcloud.models.export import Exported, Options, export
from nbcloud.models.export.keras import graph
from nbcloud.models.signature import Tensor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
onnx = pytest.importorskip("onnx")
keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

L = keras.layers
RANDOM = np.random.default_rng(0)
Export = Callable[..., Exported]


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype("float32")


def sequential(*layers: Any) -> Any:
    return keras.Sequential([each for each in layers if each is not None])


@pytest.fixture
def exported(tmp_path: Path) -> Export:
    def run(model: Any, sample: Any, **options: Any) -> Exported:
        return export(model, sample, name="m", path=tmp_path / "m.onnx", **options)

    return run


def told(tensors: tuple[Tensor, ...]) -> list[str]:
    return [str(each) for each in tensors]


def fitted(model: Any) -> Any:
    """A model that saw batches of four."""
    model.compile("adam", "mse")
    model.fit(numbers(8, 5, 5, 1), numbers(8, 2), batch_size=4, verbose=0)
    return model


CASES = {
    "images of any size": lambda: (
        sequential(
            keras.Input((None, None, 3)), L.Resizing(8, 8), L.Rescaling(1 / 255), L.RandomFlip(), L.Conv2D(4, 3),
            L.BatchNormalization(), L.GlobalAveragePooling2D(),
        ),
        numbers(2, 9, 12, 3),
    ),
    "grouped convolution": lambda: (sequential(keras.Input((9, 9, 4)), L.Conv2D(8, 3, groups=4)), numbers(2, 9, 9, 4)),
    "constants of Normalization": lambda: (
        sequential(keras.Input((4, 4, 2)), L.Normalization(mean=[0.1, 0.2], variance=[1.0, 2.0]), L.Conv2D(2, 3)),
        numbers(2, 4, 4, 2),
    ),
    "LSTM of any length": lambda: (sequential(keras.Input((None, 3)), L.LSTM(4), L.Dense(2)), numbers(3, 5, 3)),
    "TimeDistributed of any length": lambda: (
        sequential(keras.Input((None, 4)), L.TimeDistributed(L.Dense(3))), numbers(2, 5, 4),
    ),
    "masked tokens": lambda: (
        sequential(keras.Input((None,), dtype="int32"), L.Embedding(9, 4, mask_zero=True), L.GRU(3)),
        np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8]]),
    ),
    "gelu": lambda: (sequential(keras.Input((4,)), L.Dense(3, activation="gelu")), numbers(3, 4)),
    "a half's precision": lambda: (
        sequential(keras.Input((4,)), L.Dense(3, dtype="mixed_float16"), L.Dense(2, dtype="float32")), numbers(3, 4),
    ),
    "built by fit": lambda: (fitted(sequential(L.Conv2D(2, 3), L.Flatten(), L.Dense(2))), numbers(3, 5, 5, 1)),
    "never built": lambda: (sequential(L.Embedding(9, 2), L.Flatten()), np.array([[1, 2], [3, 4], [5, 6]])),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_answers_are_the_same_where_the_export_did_not_look(case: str, exported: Export) -> None:
    model, sample = CASES[case]()
    made = exported(model, sample)
    assert made.report.worst <= 1
    assert "batch = 1" in made.report.compared
    assert made.metadata.framework == "keras"
    assert made.metadata.exporter.startswith("tf2onnx")


def test_weights_that_are_large_are_kept_out_of_tensorflows_optimizer(
    exported: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sequential(keras.Input((6, 6, 2)), L.Conv2D(40, 3, activation="relu"), L.Flatten(), L.Dense(30))
    sample = numbers(2, 6, 6, 2)
    whole = Predictor(exported(model, sample).path).predict(sample)
    monkeypatch.setattr("tf2onnx.tf_loader.tf_optimize", None)
    monkeypatch.setattr(graph, "_LARGE", 0)
    apart = exported(model, sample)
    np.testing.assert_allclose(Predictor(apart.path).predict(sample), whole, rtol=1e-5, atol=1e-6)


def test_other_weights_go_through_it(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx import tf_loader

    seen, optimize = [], tf_loader.tf_optimize
    monkeypatch.setattr(tf_loader, "tf_optimize", lambda *args: seen.append(1) or optimize(*args))
    exported(sequential(keras.Input((1000,)), L.Dense(4000)), numbers(2, 1000))  # 16 MB
    assert seen


def test_an_optimizer_that_fails_is_left_out(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    from tf2onnx.optimizer.const_fold_optimizer import ConstFoldOptimizer

    def fail(*_: object) -> None:
        raise KeyError("a node that is gone")

    monkeypatch.setattr(ConstFoldOptimizer, "_optimize", fail)
    model, sample = CASES["grouped convolution"]()
    assert exported(model, sample).report.worst <= 1


def test_names_are_the_models_own(exported: Export) -> None:
    age, ids = keras.Input((1,), name="age"), keras.Input((None,), dtype="int64", name="ids")
    words = L.GlobalAveragePooling1D()(L.Embedding(9, 3)(ids))
    model = keras.Model(
        {"age": age, "ids": ids}, {"p": L.Dense(2)(L.Concatenate()([age, words])), "words": words}
    )
    sample = {"ids": np.array([[1, 2, 3], [4, 5, 6]]), "age": np.array([20, 30])}
    made = exported(model, sample)
    assert told(made.signature.inputs) == ["age: float32[batch, 1]", "ids: int64[batch, length]"]
    assert told(made.signature.outputs) == ["p: float32[batch, 2]", "words: float32[batch, 3]"]
    assert any(case.startswith("length = ") for case in made.report.compared)
    renamed = exported(model, sample, options=Options(output_names=["score", "words"]))
    assert [each.name for each in renamed.signature.outputs] == ["score", "words"]
    with pytest.raises(SchemaError, match=r"The model has no input 'idz'\. Did you mean 'ids'\?"):
        exported(model, {"idz": sample["ids"], "age": sample["age"]})
    with pytest.raises(UsageError, match=r"Dimension 1 of the input 'age' can't vary"):
        exported(model, sample, options=Options(dynamic={"age": {1: "ages"}}))


def test_a_subclassed_model_is_called_as_its_call_says(exported: Export) -> None:
    class Sum(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = L.Dense(2)

        def call(self, left: Any, right: Any) -> Any:
            return {"sum": self.dense(left) + right}

    made = exported(Sum(), {"right": numbers(3, 2), "left": numbers(3, 4)})
    assert told(made.signature.inputs) == ["left: float32[batch, 4]", "right: float32[batch, 2]"]
    assert told(made.signature.outputs) == ["sum: float32[batch, 2]"]


def test_a_branch_that_was_baked_in_is_found(exported: Export) -> None:
    class Branch(keras.Model):
        def call(self, values: Any) -> Any:
            return values * (2.0 if values.shape[0] == 3 else 1.0)

    with pytest.raises(VerificationError, match="does not answer as the model does, on 'the sample'"):
        exported(Branch(), numbers(3, 4))


def test_another_number_of_outputs_for_another_batch_is_found(exported: Export) -> None:
    class Sometimes(keras.Model):
        def call(self, values: Any) -> Any:
            return [values, values * 2] if values.shape[0] != 2 else [values]

    with pytest.raises(VerificationError, match=r"on 'batch = 2': .*only one of the two models has this"):
        exported(Sometimes(), numbers(3, 4))


TEXTS = [
    "Ærøskøbing, naïve café", "北京大学 AI。 你好!", "", "  spaces  and\ttabs ", "ΑΒΓ 123 !?", "the CAT sat on the mat",
    "[UNK] _x_ `q` it's e-mail\u00a0x\u3000y\x0bz", "emoji 😀 e\u0301", "!!!", "I İ ſ ß",
]  # fmt: skip


def test_steps_are_what_the_layers_do() -> None:
    from nbcloud.models.export.keras import text

    standards = ("lower", "strip_punctuation", "lower_and_strip_punctuation")
    modes = (("int", None), ("int", 4), ("multi_hot", None), ("tf_idf", None))
    for standard, split, ngrams, (mode, length) in itertools.product(
        standards, ("whitespace", "character"), (None, 2), modes
    ):
        layer = L.TextVectorization(
            40,
            standardize=standard,
            split=split,
            ngrams=ngrams,
            output_mode=mode,
            output_sequence_length=length,
        )
        layer.adapt(np.array(TEXTS[:5]))
        step = text.step(layer, Tensor("x", "str", ("batch", 1)), "y", "float32")
        rows = np.array(TEXTS, object)[:, None]
        found = steps.apply([json.loads(json.dumps(step))], {"x": rows})["y"]
        np.testing.assert_allclose(found, layer(tf.constant(rows.tolist())).numpy(), rtol=1e-6)


def test_a_vocabulary_is_kept_beside_the_graph(exported: Export) -> None:
    characters = L.TextVectorization(vocabulary=list("北京大学"), split="character")
    model = sequential(
        keras.Input((1,), dtype="string", name="text"),
        characters,
        L.Embedding(9, 3, mask_zero=True),
        L.GRU(2),
    )
    made = exported(model, np.array(["北京", "大学 a"]))
    assert told(made.signature.inputs) == ["text: int64[batch, tokens]"]
    (step,) = made.metadata.preprocessing
    assert step["vocabulary"] == list("北京大学")
    assert told(steps.outer([step], made.signature.inputs)) == ["text: str[batch, 1]"]
    assert "texts with accents" in made.report.compared
    texts = np.array([["北"], ["学 b 大"]], object)
    np.testing.assert_allclose(
        Predictor(made.path).predict(texts), model(tf.constant(texts.tolist())).numpy(), rtol=1e-4
    )


def test_counts_of_words_and_two_vocabularies_of_one_text(exported: Export) -> None:
    text = keras.Input((1,), dtype="string", name="text")
    words = L.TextVectorization(vocabulary=["a", "b"], output_mode="count", name="words")(text)
    letters = L.TextVectorization(
        vocabulary=list("ab"), split="character", output_mode="multi_hot", name="letters"
    )(text)
    made = exported(keras.Model(text, L.Concatenate()([words, letters])), np.array([["a b"], ["c"]]))
    assert told(made.signature.inputs) == ["text_letters: float32[batch, 3]", "text_words: float32[batch, 3]"]


def random_layer() -> Any:
    class Noise(keras.Model):
        def call(self, values: Any) -> Any:
            return values + keras.random.normal((1,))

    return Noise(), numbers(2, 3)


def inner_text() -> Any:
    class Reader(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.lookup = L.StringLookup(vocabulary=["a"], name="lookup")

        def call(self, values: Any) -> Any:
            return self.lookup(values)

    return Reader(), np.array([["a"]])


def looked_up(**options: Any) -> Any:
    layer = L.TextVectorization(vocabulary=["a"], name="words", **options)
    return sequential(keras.Input((1,), dtype="string"), layer), np.array([["a"]])


REFUSED = {
    "The layer 'memory' (LSTM) keeps its state from call to call": lambda: (
        sequential(keras.Input(batch_shape=(2, 5, 3)), L.LSTM(2, stateful=True, name="memory")), numbers(2, 5, 3),
    ),
    "The layer 'brain' (Dense) computes in bfloat16": lambda: (
        sequential(keras.Input((3,)), L.Dense(2, dtype="mixed_bfloat16", name="brain")), numbers(2, 3),
    ),
    "The operation Bucketize": lambda: (sequential(keras.Input((2,)), L.Discretization([0.0, 1.0])), numbers(2, 2)),
    "The model gives two different answers to the same input.": random_layer,
    "The layer 'lookup' (StringLookup) is inside of 'reader'": inner_text,
    "The layer 'words' (TextVectorization) has a split function of your own.": lambda: looked_up(
        split=lambda values: tf.strings.split(values, sep=",")
    ),
    "The layer 'words' (TextVectorization) has ragged=True.": lambda: looked_up(ragged=True),
    "The layer 'sum' (Hashing) hashes its input": lambda: (
        sequential(keras.Input((1,), dtype="string"), L.Hashing(5, name="sum")), np.array([["a"]]),
    ),
    "The model is not built, and refuses the sample": lambda: (sequential(L.Dense(2), L.Conv2D(3, 3)), numbers(2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_can_not_be_right_is_refused_by_name(sentence: str, exported: Export) -> None:
    model, sample = REFUSED[sentence]()
    with pytest.raises(ExportError) as error:
        exported(model, sample)
    assert error.value.message.startswith(sentence)
    assert error.value.hint


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, as it saves
def test_files_are_read_without_running_what_is_in_them(tmp_path: Path, exported: Export) -> None:
    model, sample = sequential(keras.Input((4,)), L.Dense(2)), numbers(3, 4)
    model.save(tmp_path / "a.keras")
    model.save(tmp_path / "a.h5")
    model.export(str(tmp_path / "saved"), verbose=False)
    for name in ("a.keras", "a.h5", "saved"):
        made = exported(tmp_path / name, sample)
        assert told(made.signature.inputs) == ["input: float32[batch, 4]"]
    code = sequential(keras.Input((4,)), L.Lambda(lambda values: values * 2, name="twice"))
    for name in ("b.keras", "b.h5"):
        code.save(tmp_path / name)
        with pytest.raises(ExportError, match=r"has the Lambda layer 'twice': Python code"):
            exported(str(tmp_path / name), sample)
    model.save_weights(tmp_path / "c.weights.h5")
    with pytest.raises(ExportError, match=r"c\.weights\.h5 has weights only, no model\."):
        exported(tmp_path / "c.weights.h5", sample)
    with pytest.raises(ExportError, match="There is no file"):
        exported(tmp_path / "none.keras", sample)


def test_functions_of_tensorflow(tmp_path: Path, exported: Export) -> None:
    class Score(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(numbers(4, 2))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="features")])
        def __call__(self, values: Any) -> Any:
            return {"score": values @ self.weights}

    module, sample = Score(), numbers(3, 4)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    for model in (module, tmp_path / "saved", tf.saved_model.load(str(tmp_path / "saved"))):
        made = exported(model, sample)
        assert told(made.signature.inputs) == ["features: float32[batch, 4]"]
        assert told(made.signature.outputs) == ["score: float32[batch, 2]"]
        assert made.metadata.framework == "tensorflow"


def test_another_backend_of_keras_is_exported_by_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = f"""
import keras, numpy, pathlib
from nbcloud.models.export import export
model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
sample = numpy.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
made = export(model, sample, name="m", path=pathlib.Path({str(tmp_path / "m.onnx")!r}))
print(keras.backend.backend(), made.metadata.exporter, *made.signature.inputs)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch tf2onnx")
    assert "from Keras on torch input: float32[batch, length, 3]" in done.stdout


def test_the_first_layer_that_differs_is_named(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a converter would that has one layer wrong."""
    inputs = keras.Input((8,))
    both = [L.Dense(6, activation="relu", name="left")(inputs), L.Dense(6, name="right")(inputs)]
    model = keras.Model(inputs, L.Dense(3, name="head")(L.Add(name="sum")(both)))
    weights = model.get_layer("right").kernel.numpy()
    convert = graph.convert

    def wrong(call: Any, inputs: Any, outputs: Any, path: Path, *rest: Any) -> Any:
        made = convert(call, inputs, outputs, path, *rest)
        for tensor in made.graph.initializer:
            value = onnx.numpy_helper.to_array(tensor)
            if value.shape == weights.shape and np.allclose(value, weights):
                tensor.CopyFrom(onnx.numpy_helper.from_array(value * np.float32(1.5), tensor.name))
        onnxfile.save(made, path)
        return made

    monkeypatch.setattr(graph, "convert", wrong)
    with pytest.raises(
        VerificationError, match=r"The first step that differs is the layer 'right' \(Dense\)"
    ):
        exported(model, numbers(5, 8), options=Options(exporter="tf2onnx"))

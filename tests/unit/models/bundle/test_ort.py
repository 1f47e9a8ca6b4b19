"""Bundles in onnxruntime's own format answer as the model does, or are not made."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.tools.reduced_build_config_parser import parse_config

from nbcloud.errors import ModelError, UsageError
from nbcloud.inference.edge import load
from nbcloud.models.bundle import ort
from tests.bundles import SAMPLE, make, onnx_file


@pytest.mark.parametrize("target", ["edge", "cpu-x86"])
def test_it_answers_as_the_onnx_file_and_says_what_a_small_build_needs(tmp_path: Path, target: str) -> None:
    path = make(tmp_path, "small.nbundle", form="ort", target=target)
    model = load(path)
    model.self_test()
    expected = load(make(tmp_path, "usual.nbundle")).predict(SAMPLE)["probabilities"]
    np.testing.assert_allclose(model.predict(SAMPLE)["probabilities"], expected, rtol=1e-6)
    assert model.manifest.model == "model/flowers.ort"
    assert model.manifest.target.name == target
    assert onnxruntime.__version__.startswith(f"{model.manifest.target.onnxruntime}.")
    with zipfile.ZipFile(path) as opened:
        assert [name for name in opened.namelist() if name.startswith("model/")] == ["model/flowers.ort"]
        opened.extract("required_operators.config", tmp_path)
    operators, types = parse_config(str(tmp_path / "required_operators.config"), enable_type_reduction=True)
    assert {each for needed in operators["ai.onnx"].values() for each in needed} == {
        "MatMul",
        "Relu",
        "Softmax",
    }
    assert types is not None
    assert str(tmp_path) not in (tmp_path / "required_operators.config").read_text()


def test_one_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    other = ort.convert(onnx_file(tmp_path / "other" / "flowers.onnx", seed=9), "edge")
    monkeypatch.setattr(ort, "convert", lambda *_: other)
    with pytest.raises(ModelError) as caught:
        make(tmp_path, form="ort")
    assert str(caught.value).startswith("In onnxruntime's own format the model answers otherwise: output ")
    assert str(caught.value).endswith('Bundle it with form="onnx".')
    assert not (tmp_path / "flowers.nbundle").exists()


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no form 'tflite' of bundles\. There are: onnx, ort\."):
        make(tmp_path, form="tflite")
    with pytest.raises(UsageError, match=r"There is no target 'edge-arm65'\. Did you mean 'edge-arm64'\?"):
        make(tmp_path, form="ort", target="edge-arm65")
    (tmp_path / "none.onnx").write_bytes(b"none")
    with pytest.raises(
        ModelError, match=r"can't write the model in its own format: .*Protobuf parsing failed"
    ):
        ort.convert(tmp_path / "none.onnx", "edge")

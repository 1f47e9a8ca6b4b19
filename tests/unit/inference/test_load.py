"""Models that answer in this process: loaded by name or path, checked in what they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nbcloud
from nbcloud.errors import ModelError, ModelNotFound, SchemaError
from nbcloud.models.registry import Registry
from tests.bundles import onnx_file
from tests.unit.models.registry.test_registry import model_file


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    return model_file(tmp_path / "m.onnx", 3.0)


def test_a_model_answers_by_its_name_and_by_its_path(path: Path) -> None:
    registry = Registry()
    registry.add(path, "triple")
    registry.set_alias("triple/1", "champion")
    for name in ("models:/triple@champion", "models:/triple", path):
        model = nbcloud.load(name)
        np.testing.assert_array_equal(model.predict([[1, 2]]), [[3, 6]])
        assert model([[0, 0]]).shape == (1, 2)
    assert "takes x: float32[batch, 2]" in repr(model)


def test_a_wrong_input_is_refused_before_onnxruntime_sees_it(path: Path) -> None:
    with pytest.raises(SchemaError, match=r"The input 'x' has the shape \[1, 3\]"):
        nbcloud.load(path).predict([[1, 2, 3]])


def test_what_there_is_not_or_is_no_model_is_told(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="There is no file 'triple'"):
        nbcloud.load("triple")
    with pytest.raises(ModelNotFound, match="no model 'triple'"):
        nbcloud.load("models:/triple")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"this is no model")
    with pytest.raises(ModelError, match=r"onnxruntime can't load .*bad\.onnx"):
        nbcloud.load(bad)


def test_nothing_is_sent_elsewhere_unless_it_is_asked_for(path: Path) -> None:
    import onnxruntime

    assert "AzureExecutionProvider" not in nbcloud.load(path).session.get_providers()
    asked = nbcloud.load(path, providers=onnxruntime.get_available_providers())
    np.testing.assert_array_equal(asked.predict([[1, 2]]), [[3, 6]])


def test_a_file_of_others_answers_too(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    loaded = nbcloud.load(path)
    assert loaded.signature.inputs[0].shape == ("batch", 2)
    np.testing.assert_array_equal(loaded.predict([[1, 2]]), [[3, 6]])


def test_weights_that_are_apart_are_those_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    registry = Registry(str(tmp_path / "registry"))
    rows = np.ones((1, 4), np.float32)
    answers = []
    for seed in (1, 2):  # the graphs are the same to the byte
        (tmp_path / f"{seed}").mkdir()
        path = onnx_file(tmp_path / f"{seed}" / "m.onnx", seed=seed, external=True)
        answers.append(nbcloud.load(path).predict(rows))
        registry.add(path, "large")
    assert not np.allclose(*answers)
    for number, answer in enumerate(answers, 1):
        loaded = nbcloud.load(f"models:/large/{number}", registry=registry.root)
        np.testing.assert_array_equal(loaded.predict(rows), answer)

"""Models by name: versions, aliases that move and go back, what may be deleted; on several kinds of storage."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nbcloud.errors import ModelError, ModelNotFound, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.registry import Registry
from nbcloud.models.registry.difference import differences
from nbcloud.models.signature import Signature, Tensor

SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 2)),), (Tensor("y", "float32", ("batch", 2), meaning="twice x"),)
)


def model_file(path: Path, factor: float = 2.0, **facts) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnxfile.save(model, path)
    onnxfile.set_properties(path, {KEY: Metadata(SIGNATURE, framework="onnx", **facts).to_text()})
    return path


@pytest.fixture(params=["folder", "memory"])
def registry(request, tmp_path, monkeypatch) -> Registry:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    if request.param == "folder":
        return Registry(str(tmp_path / "registry"))
    return Registry(f"memory://{tmp_path.name}-{time.monotonic_ns()}")


@pytest.fixture
def digits(registry: Registry, tmp_path: Path) -> Registry:
    for factor in (2.0, 3.0, 4.0):
        registry.add(model_file(tmp_path / "m.onnx", factor, metrics={"accuracy": factor / 10}), "digits")
    return registry


def test_versions_are_numbered_and_found_by_number_alias_or_as_the_newest(digits: Registry) -> None:
    assert [version.number for version in digits.versions("digits")] == [1, 2, 3]
    assert digits.get("digits").number == 3
    assert digits.get("models:/digits/2").uri == "models:/digits/2"
    assert digits.set_alias("digits/2", "champion").aliases == ("champion",)
    assert digits.get("digits@champion").number == 2
    assert digits.names() == ["digits"]


def test_what_was_registered_comes_back_to_the_byte_with_its_metadata(
    digits: Registry, tmp_path: Path
) -> None:
    version = digits.get("digits/3")
    assert version.path().read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert version.metadata.signature == SIGNATURE
    assert version.metadata.metrics == {"accuracy": 0.4}


def test_an_alias_goes_back_as_often_as_it_moved_and_no_further(digits: Registry) -> None:
    for number in (1, 2, 3):
        digits.set_alias(f"digits/{number}", "champion")
    assert digits.roll_back("digits", "champion").number == 2
    assert digits.roll_back("digits", "champion").number == 1
    with pytest.raises(UsageError, match="meant nothing before"):
        digits.roll_back("digits", "champion")
    assert digits.get("digits@champion").number == 1
    assert [event["kind"] for event in digits.history("digits")][-5:] == ["alias"] * 3 + ["rollback"] * 2


def test_an_alias_that_is_set_again_has_not_moved(digits: Registry) -> None:
    for number in (1, 2, 2, 2):
        digits.set_alias(f"digits/{number}", "champion")
    assert digits.roll_back("digits", "champion").number == 1
    assert digits.get("digits@champion").number == 1


def test_registering_again_puts_a_damaged_file_right(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    path = model_file(tmp_path / "m.onnx")
    kept = registry.add(path, "digits").path()
    kept.chmod(0o644)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="register the model again"):
        registry.get("digits/1").path()
    registry.add(path, "digits")
    assert registry.get("digits/1").path().read_bytes() == path.read_bytes()


def test_what_else_is_in_its_folder_is_no_model(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    registry.add(model_file(tmp_path / "m.onnx"), "digits")
    (tmp_path / "registry" / "models" / "New Folder").mkdir()
    (tmp_path / "registry" / "models" / "empty").mkdir()
    assert registry.names() == ["digits"]


def test_what_is_pointed_at_is_not_deleted(digits: Registry, tmp_path: Path) -> None:
    digits.set_alias("digits/1", "champion")
    digits.add_variant("digits/1", "int8", model_file(tmp_path / "v.onnx", 9.0), {"accuracy": 0.1})
    digits.add_bundle("digits/1", {"sha256": "0" * 64, "file": "d.nbundle", "variant": "int8"})
    for reference, reason in (
        ("digits/1", "the alias @champion means"),
        ("digits/1#int8", "the bundle d.nbundle"),
    ):
        with pytest.raises(UsageError, match=reason):
            digits.delete(reference)
    digits.delete("digits/2")
    with pytest.raises(ModelNotFound, match="no version 2 any more"):
        digits.get("digits/2")
    assert [version.number for version in digits.versions("digits")] == [1, 3]
    assert digits.add(tmp_path / "m.onnx", "digits").number == 4


def test_an_alias_does_not_go_back_to_what_is_deleted(digits: Registry) -> None:
    digits.set_alias("digits/1", "champion")
    digits.set_alias("digits/2", "champion")
    digits.delete("digits/1")
    with pytest.raises(UsageError, match="version 1 before, which is deleted"):
        digits.roll_back("digits", "champion")


def test_tags_stages_and_variants_are_of_a_version(digits: Registry, tmp_path: Path) -> None:
    digits.set_tag("digits/1", "team", "vision")
    digits.set_stage("digits/1", "production")
    variant = model_file(tmp_path / "v.onnx", 9.0)
    digits.add_variant("digits/1", "int8", variant, {"size": 3})
    version = digits.get("digits/1#int8")
    assert (version.entry.tags, version.entry.stage) == ({"team": "vision"}, "production")
    assert version.path("int8").read_bytes() == variant.read_bytes()
    assert digits.get("digits/2").entry.variants == {}
    assert digits.set_tag("digits/1", "team", None).entry.tags == {}
    with pytest.raises(UsageError, match="has a variant 'int8' already"):
        digits.add_variant("digits/1", "int8", variant, {})
    with pytest.raises(UsageError, match="There are: none, staging"):
        digits.set_stage("digits/1", "live")


@pytest.mark.parametrize(
    "reference", ["", "../etc", "models:/", "a/b", "digits@", "digits/1/2", "digits/x", "-a", "a" * 200]
)
def test_names_that_can_be_none_are_refused(registry: Registry, reference: str) -> None:
    with pytest.raises(UsageError, match="names no model"):
        registry.get(reference)


def test_a_version_is_no_alias(digits: Registry) -> None:
    digits.set_alias("digits/1", "champion")
    with pytest.raises(UsageError, match="'2' can't be an alias, since people would take it for a version"):
        digits.set_alias("digits@champion", "2")


def test_what_there_is_not_is_told_with_the_nearest(digits: Registry) -> None:
    digits.set_alias("digits/1", "champion")
    for reference, hint in (
        ("digit", "Did you mean 'digits'"),
        ("digits@campion", "Did you mean @champion"),
        ("digits/9", "It has: 1, 2, 3"),
        ("digits#int8", "It has none"),
    ):
        with pytest.raises(ModelNotFound) as caught:
            digits.get(reference)
        assert hint in caught.value.hint


def test_a_file_without_metadata_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="nothing is known of how right it is"):
        registry.add(path, "digits")


def test_a_damaged_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    registry = Registry(str(tmp_path / "registry"))
    version = registry.add(model_file(tmp_path / "m.onnx"), "digits")
    blob = version.path()
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ModelError, match="is not what it was when it was registered"):
        version.path()


def test_weights_beside_the_file_come_along(registry: Registry, tmp_path: Path) -> None:
    model = onnx.load(model_file(tmp_path / "plain.onnx"))
    weights = onnx.numpy_helper.from_array(np.arange(2000, dtype=np.float32), "large")
    model.graph.initializer.append(weights)
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=1000)
    version = registry.add(path, "large")
    assert {file.name for file in version.entry.files} == {"model.onnx", "m.onnx.data"}
    found = onnx.load(version.path())
    assert found.graph.initializer[-1].raw_data == weights.raw_data


def test_differences_name_operators_metrics_and_weights(digits: Registry, tmp_path: Path) -> None:
    found = {
        each.what: (each.before, each.after)
        for each in differences(digits.get("digits/1"), digits.get("digits/2"))
    }
    assert found["metric accuracy"] == (0.2, 0.3)
    assert set(found) == {"metric accuracy", "weights' values"}


_ADD = """
from pathlib import Path
from nbcloud.models.registry import Registry
registry = Registry({root!r})
for _ in range({times}):
    registry.add(Path({path!r}), "busy")
"""


def test_many_processes_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    root, path = str(tmp_path / "registry"), str(model_file(tmp_path / "m.onnx"))
    started = [other_process(_ADD.format(root=root, path=path, times=5)) for _ in range(3)]
    assert [each.wait(60) for each in started] == [0, 0, 0]
    assert [version.number for version in Registry(root).versions("busy")] == list(range(1, 16))


def test_a_killed_writer_leaves_a_registry_that_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other_process: Callable[[str], subprocess.Popen[str]],
    wait_until: Callable[..., Any],
) -> None:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    root, path = str(tmp_path / "registry"), str(model_file(tmp_path / "m.onnx"))
    for number in range(4):
        writer = other_process(_ADD.format(root=root, path=path, times=10_000))
        wait_until(lambda least=7 * number: len(_log(root)) > least, what="events")
        writer.kill()
        writer.wait()
        before = [version.number for version in Registry(root).versions("busy")]
        assert before == list(range(1, len(before) + 1))
        assert Registry(root).add(Path(path), "busy").number == len(before) + 1


def _log(root: str) -> list[Path]:
    folder = Path(root) / "models" / "busy" / "log"
    return [*folder.glob("*.json")] if folder.exists() else []

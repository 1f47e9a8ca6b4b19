"""Versions go to a real MLflow and come back: its own loader runs them, and nothing is ever unpickled."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from nbcloud import cli
from nbcloud.errors import ModelError, ModelNotFound, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.registry import Registry
from nbcloud.models.registry.tracking import Reference, pull, push
from nbcloud.models.signature import Signature, Tensor

pytest.importorskip("mlflow", reason="needs the extra tracking")
pytest.importorskip("alembic", reason="needs MLflow's store in SQLite")

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def model_file(path: Path, factor: float = 2.0, *, ours: bool = True) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    onnxfile.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    if ours:
        shape = ("batch", 2)
        signature = Signature((Tensor("x", "float32", shape),), (Tensor("y", "float32", shape),))
        facts = Metadata(signature, framework="onnx", exporter="by hand", metrics={"accuracy": 0.9})
        onnxfile.set_properties(path, {KEY: facts.to_text()})
    return path


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow's store of runs and models, in SQLite; making its tables takes seconds."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        MlflowClient(address, address).create_experiment("nbcloud", artifact_location=f"{folder}/artifacts")
    return address


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return Registry()


def client(tracking: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking, tracking)


def logged(tracking: str, name: str, folder: Path) -> None:
    """Register a folder as a version, as any program of MLflow's may."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = client(tracking)
        there.create_registered_model(name)
        there.create_model_version(name, str(folder))


def test_a_version_goes_to_mlflow_runs_there_and_comes_back_to_the_byte(
    registry: Registry, tracking: str, tmp_path: Path
) -> None:
    version = registry.add(model_file(tmp_path / "m.onnx"), "digits", tags={"team": "vision"}, run="run-7")
    there = push(version, Reference.parse("mlflow:@production"), tracking)
    assert there == Reference("digits", 1, "production")
    assert push(version, Reference.parse("mlflow:digits"), tracking).version == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = client(tracking).get_model_version_by_alias("digits", "production")
        assert found.tags["team"] == "vision"
        assert found.tags["nbcloud.model"] == "models:/digits/1"
        assert found.tags["nbcloud.run"] == "run-7"
        run = client(tracking).get_run(found.run_id)
        assert (run.info.status, run.data.metrics) == ("FINISHED", {"accuracy": 0.9})
        import mlflow

        loaded = mlflow.pyfunc.load_model(f"{run.info.artifact_uri}/model")
        np.testing.assert_array_equal(loaded.predict({"x": ROWS})["y"], 2 * ROWS)
        assert loaded.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, 2)
    pulled = pull(Reference.parse("mlflow:digits@production"), tmp_path, tracking)
    assert pulled.verified
    assert pulled.path.read_bytes() == version.path().read_bytes()
    assert (pulled.reference.version, pulled.tags) == (1, {"team": "vision"})


def test_the_verbs(registry: Registry, tracking: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    registry.add(model_file(tmp_path / "m.onnx", 5.0), "flowers")
    assert cli.main(["models", "push", "flowers", "mlflow:blossoms@best"]) == 0
    assert "models:/flowers/1 is version 1 @best of 'blossoms' in MLflow." in capsys.readouterr().out
    assert cli.main(["models", "pull", "mlflow:blossoms@best", "--name", "back", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == {"mlflow": "mlflow:blossoms/1"}
    assert registry.get("back").path().read_bytes() == registry.get("flowers").path().read_bytes()


def test_an_onnx_model_that_nbcloud_did_not_push_is_verified_with_a_sample(
    registry: Registry, tracking: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.onnx

        model = onnx.load(model_file(tmp_path / "m.onnx", 3.0, ours=False))
        mlflow.onnx.save_model(model, str(tmp_path / "saved"), pip_requirements=["onnxruntime"])
    logged(tracking, "theirs", tmp_path / "saved")
    assert cli.main(["models", "pull", "mlflow:theirs"]) == 2
    told = capsys.readouterr().err
    assert "mlflow:theirs/1 is not from nbcloud, so nothing is known of how right it is." in told
    assert "nbcloud models pull mlflow:theirs/1 --sample FILE" in told
    np.save(tmp_path / "x.npy", ROWS)
    assert cli.main(["models", "pull", "mlflow:theirs", "--sample", str(tmp_path / "x.npy")]) == 0
    version = registry.get("theirs")
    assert version.metadata.verification["compared"]
    assert version.entry.tags == {"mlflow": "mlflow:theirs/1"}


def into(folder: Path) -> Path:
    made = folder / "pulled"
    made.mkdir()
    return made


class Trap:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


def test_other_flavours_are_refused_and_nothing_of_them_is_unpickled(
    registry: Registry, tracking: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sk"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(pickle.dumps(Trap()))
    flavors = {
        "python_function": {"loader_module": "mlflow.sklearn"},
        "sklearn": {"pickled_model": "model.pkl"},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    logged(tracking, "pickled", folder)
    with pytest.raises(ModelError) as caught:
        pull(Reference.parse("mlflow:pickled"), into(tmp_path), tracking)
    assert "mlflow:pickled/1 is of the flavour sklearn, which would have to be unpickled." in str(
        caught.value
    )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "{flavors: {onnx: {data: ../../m.onnx}}}",
            "names '../../m.onnx' as its ONNX file, which it has not",
        ),
        ("{flavors: {onnx: {data: gone.onnx}}}", "names 'gone.onnx' as its ONNX file, which it has not"),
        ("!!python/object/apply:os.system ['touch sprung']", "has no MLmodel that can be read"),
        ("flavors: 3", "has no MLmodel that can be read"),
    ],
)
def test_a_folder_that_lies_is_refused(
    registry: Registry, tracking: str, tmp_path: Path, monkeypatch, text: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "MLmodel").write_text(text)
    logged(tracking, f"bad-{abs(hash(text))}", folder)
    with pytest.raises(ModelError) as caught:
        pull(Reference.parse(f"mlflow:bad-{abs(hash(text))}"), into(tmp_path), tracking)
    assert told in caught.value.message
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_changed_since_it_was_pushed_is_refused(
    registry: Registry, tracking: str, tmp_path: Path
) -> None:
    version = registry.add(model_file(tmp_path / "m.onnx", 7.0), "changed")
    push(version, Reference.parse("mlflow:"), tracking)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = client(tracking).get_model_version("changed", "1")
    model_file(Path(found.source.removeprefix("file://")) / "model.onnx", 8.0)
    with pytest.raises(ModelError, match="is not what it was when nbcloud pushed it"):
        pull(Reference.parse("mlflow:changed"), tmp_path, tracking)


def test_what_there_is_not_is_told(registry: Registry, tracking: str, tmp_path: Path) -> None:
    for wanted in ("mlflow:nothing", "mlflow:nothing@best", "mlflow:nothing/3"):
        with pytest.raises(ModelNotFound, match=f"has no {wanted}"):
            pull(Reference.parse(wanted), tmp_path, tracking)
    with pytest.raises(UsageError, match="It is not said where MLflow is"):
        pull(Reference.parse("mlflow:digits"), tmp_path)
    with pytest.raises(UsageError, match="names no model of MLflow"):
        Reference.parse("mlflow:a/b")
    version = registry.add(model_file(tmp_path / "m.onnx"), "here")
    with pytest.raises(UsageError, match="MLflow numbers its versions itself"):
        push(version, Reference.parse("mlflow:here/3"), tracking)
    with pytest.raises(ModelError, match="MLflow at nonsense://x says"):
        push(version, Reference.parse("mlflow:here"), "nonsense://x")

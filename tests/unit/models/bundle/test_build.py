"""A verified ONNX file becomes one file for a device."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nbcloud.errors import ModelError, SchemaError, UsageError
from nbcloud.inference.edge import load
from nbcloud.models import onnxfile
from nbcloud.models.bundle import keys
from nbcloud.models.bundle.build import bundle
from tests.bundles import CLASSES, SAMPLE, made, make, onnx_file


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "key.pem")
    return tmp_path / "key.pem"


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, key: Path) -> None:
    first = make(tmp_path, "first.nbundle", sign=key).read_bytes()
    assert make(tmp_path, "second.nbundle", sign=key).read_bytes() == first
    assert make(tmp_path, "third.nbundle", sign=key, version="2").read_bytes() != first


def test_what_is_in_it(tmp_path: Path, key: Path) -> None:
    path = make(tmp_path, sign=key, version="3", variant="fp32", licence="MIT")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        sbom = json.loads(archive.read("sbom.cdx.json"))
    assert names == sorted(names)
    assert {*manifest["files"], "manifest.json", "signature"} == set(names)
    assert manifest["format"] == 1
    assert (manifest["name"], manifest["version"], manifest["licence"]) == ("flowers", "3", "MIT")
    assert manifest["target"] == {"name": "edge", "onnxruntime": "1.12", "ir": 8, "opsets": {"ai.onnx": 17}}
    assert manifest["golden"]["inputs"] == {"x": "golden/inputs/0.npy"}
    assert manifest["golden"]["tolerances"] == {"probabilities": 0.001}
    assert sbom["bomFormat"] == "CycloneDX"
    needed = [each["name"] for each in sbom["components"] if each["scope"] == "required"]
    assert needed == ["nbcloud", "numpy", "onnxruntime"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_weights_beside_the_model_go_along(tmp_path: Path) -> None:
    model = onnx_file(tmp_path / "large.onnx", external=True)
    expected = load(make(tmp_path)).predict(SAMPLE)["probabilities"]
    bundle(model, tmp_path / "large.nbundle", golden=SAMPLE)
    for file in onnxfile.files(model):
        file.unlink()
    large = load(tmp_path / "large.nbundle")
    large.self_test()
    assert set(large.manifest.files) > {"model/large.onnx", "model/large.onnx.data"}
    np.testing.assert_allclose(large.predict(SAMPLE)["probabilities"], expected, rtol=1e-5)


def test_only_some_rows_become_golden(tmp_path: Path) -> None:
    path = make(tmp_path, golden=np.tile(SAMPLE, (100, 1)))
    assert load(path).golden_inputs["x"].shape == (16, 4)


def test_labels_of_the_export_can_be_replaced(tmp_path: Path) -> None:
    model = load(make(tmp_path, labels={"probabilities": ["a", "b", "c"]}))
    plain = load(make(tmp_path, "plain.nbundle"))
    found, expected = model.predict(SAMPLE)["label"], plain.predict(SAMPLE)["label"]
    assert [CLASSES["abc".index(each)] for each in found] == list(expected)


def test_a_bundle_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    model, path = onnx_file(tmp_path / "model.onnx"), tmp_path / "flowers.nbundle"
    trained = model.read_bytes()
    for _ in range(2):
        bundle(model, path, golden=SAMPLE)
    for wrong in (model, tmp_path):
        with pytest.raises(UsageError, match="is there, and its name is not that of a bundle"):
            bundle(model, wrong, golden=SAMPLE)
    assert model.read_bytes() == trained


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"golden": SAMPLE[:, :3]}, SchemaError, r"'x' has the shape \[6, 3\]"),
        ({"labels": {"scores": ["a"]}}, UsageError, "no output 'scores'. It has: probabilities"),
        (
            {"labels": {"probabilities": ["a"]}},
            UsageError,
            "1 labels are given for the output 'probabilities'",
        ),
        (
            {"postprocessing": [{"step": "soft", "output": "probabilities"}]},
            UsageError,
            "no postprocessing step 'soft'",
        ),
        (
            {"postprocessing": [{"step": "softmax", "output": "y"}]},
            UsageError,
            "of an output 'y' that there is not",
        ),
        (
            {"postprocessing": [{"step": "argmax", "output": "probabilities"}]},
            UsageError,
            "must have output, step, to",
        ),
        ({"preprocessing": [{"step": "crop"}]}, ModelError, "needs the step 'crop' before its graph"),
        ({"sign": Path("/nowhere/key.pem")}, UsageError, "To make one: nbcloud edge keygen"),
    ],
    ids=str,
)
def test_what_can_not_be_right_is_refused(tmp_path: Path, options: dict, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        made(tmp_path, "wrong.nbundle", **options)
    assert not (tmp_path / "wrong.nbundle").exists()


def test_a_file_that_nbcloud_did_not_export_is_refused(tmp_path: Path) -> None:
    model = onnx_file(tmp_path / "foreign.onnx")
    proto = onnxfile.load(model)
    del proto.metadata_props[:]
    onnxfile.save(proto, model)
    with pytest.raises(ModelError, match="does not say what it takes, because nbcloud did not export it"):
        bundle(model, tmp_path / "foreign.nbundle", golden=SAMPLE)
    model.write_bytes(b"no model")
    with pytest.raises(ModelError, match="is no ONNX file"):
        bundle(model, tmp_path / "foreign.nbundle", golden=SAMPLE)


def test_a_newer_opset_needs_a_newer_onnxruntime(tmp_path: Path) -> None:
    model = onnx_file(tmp_path / "newer.onnx", opset=21)
    assert bundle(model, tmp_path / "newer.nbundle", golden=SAMPLE).target.onnxruntime == "1.18"


def test_less_precise_numbers_may_differ_more(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    model = onnx_file(tmp_path / "flowers.onnx")
    quantize_dynamic(model, tmp_path / "int8.onnx")
    small = onnxfile.load(tmp_path / "int8.onnx")
    small.metadata_props.extend(onnxfile.load(model).metadata_props)
    onnxfile.save(small, tmp_path / "int8.onnx")
    manifest = bundle(tmp_path / "int8.onnx", tmp_path / "int8.nbundle", golden=SAMPLE)
    assert (manifest.variant, manifest.golden.tolerances) == ("int8", {"probabilities": 0.05})
    load(tmp_path / "int8.nbundle").self_test()
    exact = bundle(
        tmp_path / "int8.onnx", tmp_path / "exact.nbundle", golden=SAMPLE, tolerance=0, variant="q8"
    )
    assert (exact.variant, exact.golden.tolerances) == ("q8", {"probabilities": 0})


def test_a_private_key_is_for_its_owner_only(tmp_path: Path, key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (tmp_path / "key.pub.pem").exists()
    with pytest.raises(UsageError, match=r"key.pem is there already. Give another name"):
        keys.generate(key)
    key.chmod(0o644)
    with pytest.raises(UsageError, match="Others can read the private key"):
        make(tmp_path, sign=key)
    key.chmod(0o600)
    key.write_text("nothing")
    with pytest.raises(UsageError, match="is no private Ed25519 key in PEM"):
        make(tmp_path, sign=key)
    # A file that is no such key is called so, whoever may read it: chmod would not help.
    with pytest.raises(UsageError, match="is no private Ed25519 key in PEM"):
        make(tmp_path, sign=tmp_path / "key.pub.pem")


def test_a_bundle_is_a_program_that_needs_no_nbcloud(tmp_path: Path) -> None:
    path = make(tmp_path)
    np.save(tmp_path / "x.npy", SAMPLE)
    # Nothing but the bundle and the packages of this environment: not the folder that nbcloud is in.
    code = f"""
import runpy, sys
sys.path = [each for each in sys.path if not each.endswith({str(Path(__file__).parents[4])!r}) and each]
sys.argv = ["x", "--input", "x.npy", "--json"]
sys.path.insert(0, "flowers.nbundle")
import nbcloud
assert "flowers.nbundle" in nbcloud.__file__, nbcloud.__file__
runpy.run_path("flowers.nbundle", run_name="__main__")
"""
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)["answers"]
    assert found["label"] == list(load(path).predict(SAMPLE)["label"])


def test_golden_answers_are_what_onnx_says_and_not_what_this_processor_makes_of_8_bits(
    tmp_path: Path,
) -> None:
    """Sums of products that don't fit in 16 bits, which x86 without VNNI cuts off where it fuses operators."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(onnx_file(tmp_path / "flowers.onnx"))
    largest = np.full((4, 3), 127, np.int8)
    largest[:, 1] = -127
    scales = {"scale": np.float32(1 / 127), "zero": np.int8(0), "weights": largest}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "wide", "zero"], ["qs"]),
        helper.make_node("DequantizeLinear", ["qs", "wide", "zero"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        list(model.graph.input),
        list(model.graph.output),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in scales.items()]
        + [numpy_helper.from_array(np.float32(4 / 127), "wide")],
    )
    made_of = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made_of.metadata_props.extend(model.metadata_props)
    onnx.save(made_of, tmp_path / "flowers.onnx")
    ones = np.ones((2, 4), np.float32)
    bundle(tmp_path / "flowers.onnx", tmp_path / "flowers.nbundle", golden=ones)
    with zipfile.ZipFile(tmp_path / "flowers.nbundle") as opened:
        answers = np.load(opened.open("golden/outputs/0.npy"))
    np.testing.assert_allclose(answers, [[4, -4, 4]] * 2, rtol=0.02)

"""ONNX files from elsewhere: what they say is checked, what they answer is compared, what is hostile is named."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from nbcloud.errors import ExportError, SchemaError, UsageError, VerificationError
from nbcloud.models.export import Exported, Options, export
from nbcloud.models.export.onnx import answers, versions
from nbcloud.models.metadata import Metadata

RANDOM = np.random.default_rng(5)
ROWS = RANDOM.normal(size=(5, 3)).astype(np.float32)
WEIGHTS = numpy_helper.from_array(RANDOM.normal(size=(3, 2)).astype(np.float32), "w")

Graph = tuple[list[Any], list[Any], list[Any], list[Any]]


def value(name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def made(
    *nodes: Any,
    inputs: list[Any] | None = None,
    outputs: list[Any] | None = None,
    weights: list[Any] | None = None,
    opset: int = 17,
    ir: int = 8,
    domains: tuple[str, ...] = (),
) -> Any:
    graph = helper.make_graph(
        list(nodes),
        "from elsewhere",
        inputs or [value("x", ["rows", 3])],
        outputs or [value("y", ["rows", 2])],
        [WEIGHTS] if weights is None else weights,
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=ir, producer_name="elsewhere", producer_version="2.1"
    )


def product(**how: Any) -> Any:
    return made(helper.make_node("MatMul", ["x", "w"], ["y"], name="product"), **how)


def written(path: Path, source: Any) -> Path:
    path.write_bytes(source.SerializeToString())
    return path


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Exported]:
    def run(source: Any, sample: Any = ROWS, **options: Any) -> Exported:
        return export(source, sample, name="m", path=tmp_path / "made.onnx", options=Options(**options))

    return run


def test_a_file_is_compared_with_what_onnx_defines_and_says_so_of_itself(exported, tmp_path: Path) -> None:
    found = exported(written(tmp_path / "m.onnx", product()))
    assert [str(each) for each in found.signature.inputs] == ["x: float32[rows, 3]"]
    assert [str(each) for each in found.signature.outputs] == ["y: float32[rows, 2]"]
    facts = Metadata.of({each.key: each.value for each in onnx.load(found.path).metadata_props})
    assert facts is not None
    assert (facts.framework, facts.exporter, facts.opset) == ("onnx", "elsewhere 2.1", 17)
    assert {"the sample", "rows = 1", "zeros", "large values", "NaN"} <= set(found.report.compared)
    assert facts.notes == []


def test_a_model_in_memory_is_left_as_it_is(exported) -> None:
    source = product()
    before = source.SerializeToString()
    assert exported(source).report.worst < 1
    assert source.SerializeToString() == before


def test_a_kernel_that_is_wrong_is_found_and_named(exported) -> None:
    """onnxruntime's Sigmoid is 0 where it is not yet, and a logarithm of that is far off."""
    source = made(
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Sigmoid", ["p"], ["s"], name="logistic"),
        helper.make_node("Log", ["s"], ["y"]),
        weights=[numpy_helper.from_array(np.full((3, 2), 60, np.float32), "w")],
    )
    sample = np.array([[0, 0, -1.0]], np.float32)
    with pytest.raises(VerificationError) as caught:
        exported(source, sample)
    assert "on 'the sample': output 'y', at [0, 0] -inf instead of -60" in caught.value.message
    assert "The first step that differs is the node 'logistic' (Sigmoid)." in caught.value.message
    assert exported(source, sample, exporter="onnxruntime").metadata.notes == [
        "Compared with onnxruntime's own answers without optimisations, as was asked for."
    ]


def test_what_only_onnxruntime_computes_is_compared_with_its_plain_answers_and_a_note(exported) -> None:
    source = made(
        helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft"), domains=("com.microsoft",)
    )
    found = exported(source)
    assert "ONNX's reference implementation can't compute it" in found.metadata.notes[0]


def test_sizes_are_what_the_model_answers_not_what_its_file_says(exported) -> None:
    shape = numpy_helper.from_array(np.array([5, 3], np.int64), "shape")
    source = made(
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
        weights=[WEIGHTS, shape],
    )
    found = exported(source)
    assert found.signature.inputs[0].shape == (5, 3)
    assert found.metadata.notes == ["The file says that 'rows' varies; it answers no other size than 5."]
    free = exported(product(inputs=[value("x", [None, 3])], outputs=[value("y", [None, 2])]))
    assert free.signature.inputs[0].shape == ("batch", 3)
    assert exported(product(), dynamic=False).signature.inputs[0].shape == (5, 3)
    assert exported(product(), dynamic={"x": {0: "people"}}).signature.outputs[0].shape == ("people", 2)
    with pytest.raises(ExportError, match=r"The file fixes the size of dimension 1 of 'x': 3\."):
        exported(product(), dynamic={"x": {1: "columns"}})


def test_the_sample_must_be_what_the_file_takes(exported) -> None:
    with pytest.raises(
        SchemaError, match=r"The input 'x' has the shape \[5, 4\]\. The model takes x: float32"
    ):
        exported(product(), np.zeros((5, 4), np.float32))
    with pytest.raises(SchemaError, match="has texts or mixed values"):
        exported(product(), np.array([["a", "b", "c"]]))
    with pytest.raises(UsageError, match="An ONNX file names its inputs and outputs itself"):
        exported(product(), input_names=["z"])


def test_weights_among_the_inputs_as_older_files_have_them_need_not_be_given(exported) -> None:
    found = exported(product(inputs=[value("x", ["rows", 3]), value("w", [3, 2])]))
    assert [each.name for each in found.signature.inputs] == ["x"]


def test_scores_in_mappings_become_arrays(exported) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    from skl2onnx import to_onnx

    classes = RANDOM.integers(0, 3, 40)
    rows = RANDOM.normal(size=(40, 3)).astype(np.float32)
    classifier = sklearn.LogisticRegression().fit(rows, classes)
    found = exported(to_onnx(classifier, rows[:1]), rows)
    label, scores = found.signature.outputs
    assert (label.shape, scores.shape, scores.dtype) == (("batch",), ("batch", 3), "float32")
    answers = ReferenceEvaluator(str(found.path)).run(None, {"X": rows})[1]
    np.testing.assert_allclose(answers, classifier.predict_proba(rows), atol=1e-5)


def test_operators_too_new_for_onnxruntime_are_written_in_older_ones_and_compared_with_what_they_were(
    exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = versions._reads  # a later onnxruntime reads all that this onnx has
    monkeypatch.setattr(versions, "_reads", lambda version, ir: version <= 26 and reads(version, ir))
    found = exported(product(opset=28, ir=13))
    assert found.metadata.opset < 28
    assert found.metadata.notes == [
        f"Written in opset {found.metadata.opset}, the newest that this onnxruntime reads; "
        "the file was in 28."
    ]
    assert exported(product(opset=17), opset=21).metadata.opset == 21
    assert exported(product(ir=14)).metadata.opset == 17
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "b", [], [value("b", [3, 2])])
    new = made(
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["x", "chosen"], ["y"]),
        weights=[WEIGHTS, numpy_helper.from_array(np.array(True), "yes")],
        opset=28,
    )
    with pytest.raises(ExportError, match=r"can't be written in .* because ONNX's converter leaves branches"):
        exported(new)
    with pytest.raises(ExportError, match="reads up to"):
        exported(product(opset=99))
    assert versions.opset(product(opset=17)) == 17


def test_models_of_8_bits_may_differ_by_steps_and_not_by_more(exported, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    rows = RANDOM.normal(size=(40, 16)).astype(np.float32)
    weights = [
        numpy_helper.from_array(RANDOM.normal(size=size).astype(np.float32), name)
        for name, size in (("a", (16, 16)), ("b", (16, 16)), ("c", (16, 3)))
    ]
    nodes = []
    taken = "x"
    for weight in weights:
        nodes.append(helper.make_node("MatMul", [taken, weight.name], [f"{weight.name}_product"]))
        nodes.append(
            helper.make_node("Relu", [f"{weight.name}_product"], [taken := f"{weight.name}_positive"])
        )
    nodes.append(helper.make_node("Identity", [taken], ["y"]))
    shapes = {"inputs": [value("x", ["rows", 16])], "outputs": [value("y", ["rows", 3])]}

    class Rows(CalibrationDataReader):
        left: Any = iter([{"x": rows}])

        def get_next(self) -> Any:
            return next(self.left, None)

    path = written(tmp_path / "full.onnx", made(*nodes, weights=weights, **shapes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(path, tmp_path / "full range.onnx", Rows(), per_channel=True)
        Rows.left = iter([{"x": rows}])
        quantize_static(path, tmp_path / "small.onnx", Rows(), per_channel=True, reduce_range=True)
    plain, fast = (
        answers.by_onnxruntime(tmp_path / "full range.onnx", optimised=each)({"x": rows})["y"]
        for each in (False, True)
    )
    if np.abs(plain - fast).max() > 0.1 * np.abs(plain).max():  # processors without VNNI saturate
        with pytest.raises(
            VerificationError, match=r"overflow on this machine: output 'y', at .* instead of"
        ):
            exported(tmp_path / "full range.onnx", rows)
    found = exported(tmp_path / "small.onnx", rows)
    assert found.metadata.notes == [
        "It has 8-bit values inside: up to three steps of their 255 are taken for rounding."
    ]
    assert answers.nearest_step(np.array([255.0, 9]), np.array([252.0, 13])).tolist() == [252, 9]


def test_what_is_no_array_is_refused(exported) -> None:
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    with pytest.raises(ExportError, match=r"The output 'y' is no array \(sequence\)"):
        exported(made(helper.make_node("SplitToSequence", ["x"], ["y"]), outputs=[sequence]))
    scalar = made(
        helper.make_node("Mul", ["x", "k"], ["y"]),
        inputs=[value("x", ["rows", 3]), value("k", [])],
        outputs=[value("y", ["rows", 3])],
        weights=[],
    )
    assert exported(scalar, {"x": ROWS, "k": np.float32(3)}).report.skipped == {}


def test_made_values_that_onnxruntime_refuses_are_no_mismatch(exported) -> None:
    """ONNX's reference takes places from the end, which the model's own samples never ask for."""
    source = made(
        helper.make_node("Cast", ["x"], ["places"], to=TensorProto.INT64),
        helper.make_node("ArrayFeatureExtractor", ["flat", "places"], ["y"], domain="ai.onnx.ml"),
        inputs=[value("x", [3])],
        outputs=[value("y", None)],
        weights=[numpy_helper.from_array(np.arange(4, dtype=np.float32), "flat")],
        domains=("ai.onnx.ml",),
    )
    found = exported(source, np.array([1, 2, 3], np.float32))
    assert "index is out of range" in found.report.skipped["the other sign"]


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "Hardmax", "BatchNormalization"])
def test_operators_are_compared_as_their_own_version_defines_them(exported, kind: str) -> None:
    """ONNX's reference implementation computes some old operators as the new ones of that name."""
    facts = [numpy_helper.from_array(np.full(4, each, np.float32), f"f{each}") for each in (1, 2, 3, 4)]
    batch = kind == "BatchNormalization"
    node = helper.make_node(kind, ["x", *(each.name for each in facts if batch)], ["y"], name="old")
    shape = ["rows", 4, 5]
    source = made(
        node, inputs=[value("x", shape)], outputs=[value("y", None)], weights=facts if batch else [], opset=9
    )
    found = exported(source, RANDOM.normal(size=(3, 4, 5)).astype(np.float32))
    assert found.report.worst < 1
    assert bool(found.metadata.notes) == (kind == "Hardmax")


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("../secret.bin", "which is outside of the model's folder"),
        ("/etc/hostname", "which is outside of the model's folder"),
        ("C:\\secret.bin", "which is outside of the model's folder"),
        ("sub\\..\\..\\secret.bin", "which is outside of the model's folder"),
        ("link.bin", "which is outside of the model's folder"),
        ("missing.bin", "which is not there"),
        ("short.bin", "reaches beyond the end"),
        ("long.bin", "takes 24 bytes, and its file has 25"),
    ],
)
def test_weights_outside_of_the_folder_or_of_another_size_are_refused(
    exported, tmp_path: Path, location: str, told: str
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "long.bin").write_bytes(bytes(25))
    (folder / "short.bin").write_bytes(bytes(5))
    source = product()
    weight = source.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    facts = {"location": location} | ({"length": "24"} if location == "short.bin" else {})
    for key, text in facts.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, text
    with pytest.raises(ExportError) as caught:
        exported(written(folder / "m.onnx", source))
    assert told in caught.value.message
    with pytest.raises(ExportError, match=r"is in another file .* which a model in memory has not"):
        exported(source)


def test_weights_larger_than_the_memory_are_not_read(exported, tmp_path: Path) -> None:
    with (tmp_path / "m.bin").open("wb") as file:
        file.truncate(2**42)  # takes no room on the disk
    weight = helper.make_tensor("w", TensorProto.FLOAT, [0], [])
    del weight.dims[:]
    weight.dims.extend([2**20, 2**20])
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "m.bin"
    with pytest.raises(ExportError, match=r"its weights take 4\.0 TiB, and .* of memory are free"):
        exported(written(tmp_path / "m.onnx", product(weights=[weight])))


def test_weights_beside_the_file_come_along(exported, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(product(), str(path), save_as_external_data=True, size_threshold=0, location="m.bin")
    assert exported(path).report.worst < 1


def test_a_file_that_is_cut_off_is_refused_wherever_it_is_cut(exported, tmp_path: Path) -> None:
    whole = product().SerializeToString()
    for length in range(0, len(whole), 7):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with pytest.raises(ExportError, match=r"only a part of one|no valid ONNX model|bytes, and it has"):
            exported(path)


def test_bytes_that_changed_are_refused_or_verified_and_never_end_the_process(
    exported, tmp_path: Path
) -> None:
    whole = bytearray(product().SerializeToString())
    for place in range(0, len(whole), len(whole) // 12):
        changed = bytearray(whole)
        changed[place] ^= 0x5A
        path = tmp_path / "changed.onnx"
        path.write_bytes(changed)
        with contextlib.suppress(ExportError, SchemaError, VerificationError):
            exported(path)


def huge(dims: list[int]) -> Any:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [0], [])
    del weight.dims[:]
    weight.dims.extend(dims)
    weight.raw_data = bytes(4)
    return product(weights=[weight])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (huge([2**40, 2**40]), "and it has 4"),
        (huge([-1]), "and it has 4"),
        (
            made(helper.make_node("Tokenizer", ["x"], ["y"], domain="ai.onnx.contrib"), domains=("ai.onnx.contrib",)),
            "the operator Tokenizer of ai.onnx.contrib, which onnxruntime has not",
        ),
        (made(helper.make_node("RandomNormalLike", ["x"], ["y"])), "whose answers are by chance"),
        (made(helper.make_node("Matmul", ["x", "w"], ["y"])), "is no valid ONNX model: No Op registered for Matmul"),
        (made(helper.make_node("MatMul", ["x", "v"], ["y"])), "is no valid ONNX model"),
        (product(opset=0), "is no valid ONNX model"),
    ],
)  # fmt: skip
def test_what_can_not_be_right_is_refused_by_name(exported, source: Any, told: str) -> None:
    with pytest.raises(ExportError) as caught:
        exported(source)
    assert told in caught.value.message


def test_a_model_that_asks_for_more_memory_than_there_is_ends_in_a_sentence(exported) -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**22], np.int64), "shape")
    source = made(
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["none"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "none"], ["y"]),
        weights=[WEIGHTS, shape],
    )
    with pytest.raises(ExportError, match=r"^onnxruntime (does not answer the sample|ended|failed)"):
        exported(source)


def test_what_nbcloud_wrote_keeps_what_it_knew(exported, tmp_path: Path) -> None:
    first = export(
        product(), ROWS, name="m", path=tmp_path / "first.onnx", options=Options(labels=["cat", "dog"])
    )
    assert exported(first.path).signature.outputs[0].labels == ("cat", "dog")


def test_no_file_is_said_so_and_other_kinds_of_models_too(exported, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"There is no file .*m\.onnx\. Give the path"):
        exported(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(os.urandom(64))
    with pytest.raises(ExportError, match="is no ONNX model, or only a part of one"):
        exported(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"m\.pt is no file of a model that nbcloud reads\. Give \.onnx"):
        exported(tmp_path / "m.pt")

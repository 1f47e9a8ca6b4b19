"""Forms of a model: made, run and measured for real, and one of them chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nbcloud.errors import ModelError, NbcloudError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.optimize import Choice, Limits, optimize
from nbcloud.models.optimize.measure import Measured, agreement
from nbcloud.models.optimize.targets import TARGETS
from nbcloud.models.registry import Registry
from nbcloud.models.signature import Signature, Tensor

SIGNATURE = Signature((Tensor("x", "float32", ("batch", 64)),), (Tensor("scores", "float32", ("batch", 4)),))
METADATA = Metadata(SIGNATURE, framework="onnx")
DATA = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(1)
    weights = {"a": random.normal(size=(64, 256)) / 8, "b": random.normal(size=(256, 4)) / 16}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("MatMul", ["active", "b"], ["scores"]),
        ],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    made = tmp_path_factory.mktemp("model") / "m.onnx"
    onnxfile.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), made)
    onnxfile.set_properties(made, {KEY: METADATA.to_text()})
    return made


@pytest.fixture(scope="module")
def right(path: Path) -> np.ndarray:
    scores = onnxruntime.InferenceSession(path).run(None, {"x": DATA})[0]
    return scores.argmax(axis=1)


@pytest.fixture(scope="module")
def choice(path: Path, right: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Choice:
    folder = tmp_path_factory.mktemp("forms")
    return optimize(
        path, METADATA, folder, target_name="edge", data=DATA, right=right, limits=Limits(max_drop=0.05)
    )


def test_every_form_of_the_target_is_measured_and_smaller_than_full_precision(choice: Choice) -> None:
    forms = {form.way: form for form in choice.measured}
    assert choice.skipped == {}
    assert set(forms) == set(TARGETS["edge-arm64"].ways)
    assert choice.full.accuracy == choice.full.agreement == 1.0
    for way, most in (("fp16", 0.6), ("int8-dynamic", 0.4), ("int8-static", 0.4), ("int4", 0.3)):
        assert forms[way].size < most * choice.full.size, way
        assert 0.9 < forms[way].agreement <= 1
    assert all(0 < form.median <= form.p99 for form in choice.measured)
    assert choice.best.way in forms
    assert choice.drop(choice.best) <= 0.05
    assert choice.pareto


def test_forms_say_of_themselves_what_the_model_does_and_answer_as_measured(
    choice: Choice, right: np.ndarray
) -> None:
    for form in choice.measured:
        session = onnxruntime.InferenceSession(form.path)
        assert Metadata.of(session.get_modelmeta().custom_metadata_map) == METADATA
        found = session.run(None, {"x": DATA})[0].argmax(axis=1)
        assert np.mean(found == right) == form.accuracy, form.way


@pytest.mark.parametrize("way", ["int8-dynamic", "int8-static"])
def test_forms_of_8_bits_are_as_right_on_x86_without_vnni(choice: Choice, way: str) -> None:
    """There, two products of 8 bits each are added in 16."""
    for weights in onnx.load(
        next(form.path for form in choice.measured if form.way == way)
    ).graph.initializer:
        if weights.data_type == TensorProto.INT8 and len(weights.dims) == 2:
            assert np.abs(numpy_helper.to_array(weights).astype(int)).max() <= 64


def test_the_table_is_for_people_and_for_browsers(choice: Choice) -> None:
    assert "chosen" in str(choice)
    assert "1 thread" in str(choice)
    assert choice._repr_html_().count("<tr>") == 1 + len(choice.measured)


def measured(way: str, size: int, median: float, agreement: float) -> Measured:
    return Measured(
        way, Path(), size, median, median, 0, None, agreement, False, 1, ("CPUExecutionProvider",)
    )


def chosen(**limits: float) -> Choice:
    forms = [
        measured("fp32", 100, 1.0, 1.0),
        measured("fast", 50, 0.2, 0.8),
        measured("small", 20, 0.6, 0.95),
    ]
    return Choice(forms, {}, TARGETS["web"], Limits(**limits), rows=1)


def test_limits_choose() -> None:
    assert chosen().best.way == "fast"
    assert chosen(max_drop=0.1).best.way == "small"
    assert chosen(max_drop=0.01).best.way == "fp32"
    assert chosen(max_size=30).best.way == "small"
    with pytest.raises(ModelError) as caught:
        _ = chosen(max_drop=0.01, max_size=60).best
    assert "No form of the model is within the limits; fp32 comes nearest: 100 B, not 60 B." in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.1, "12 apples", None), "'12 apples' is not a size"),
        ((0.1, None, "soon"), "'soon' is not a length of time"),
        (("a lot", None, None), "max_drop='a lot' is no limit"),
        ((None, -1, None), "max_size=-1 is no limit"),
    ],
)
def test_limits_that_are_none(given: tuple[object, ...], told: str) -> None:
    with pytest.raises(NbcloudError, match=told):
        Limits.read(*given)  # type: ignore[arg-type]


def test_limits_as_people_write_them() -> None:
    assert Limits.read(0.01, "5MiB", "2ms") == Limits(0.01, 5 * 2**20, 0.002)
    assert Limits(np.float32(0.5), np.int64(7)).max_size == 7


def test_agreement_is_by_class_or_within_a_hundredth() -> None:
    assert agreement({"s": np.array([[1.0, 2], [3, 1]])}, {"s": np.array([[1.0, 9], [1, 3]])}) == 0.5
    assert agreement({"y": np.array([1.0, 50.4])}, {"y": np.array([1.2, 50.0])}) == 1.0
    assert agreement({"y": np.array([1.0, 52.0])}, {"y": np.array([1.2, 50.0])}) == 0.5
    assert agreement({"label": np.array(["a", "b"])}, {"label": np.array(["a", "c"])}) == 0.5


def test_agreement_where_numbers_are_not_finite() -> None:
    full = {"y": np.array([[1.0], [np.nan], [np.inf], [4.0]])}
    assert agreement(full, full) == 1
    assert agreement({"y": np.array([[1.0], [np.nan], [5.0], [4.1]])}, full) == 0.5


def test_what_crashes_onnxruntime_is_a_row_that_says_so(path: Path, tmp_path: Path) -> None:
    broken = onnx.load(path)
    broken.graph.node[0].op_type = "NoSuchOperator"
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(broken.SerializeToString())
    with pytest.raises(ModelError, match=r"onnxruntime does not run it: .*NoSuchOperator"):
        optimize(bad, METADATA, tmp_path, target_name="web", data=DATA, limits=Limits(), only=["fp32"])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"target_name": "edge-arm46"}, "Did you mean 'edge-arm64'"),
        ({"only": ["int9"]}, "There is no form 'int9'"),
        ({"right": [1, 2]}, "200 rows of data, and 2"),
        ({"right": iter([1, 2])}, "200 rows of data, and no rows of"),
        ({"right": ["cat"] * 200, "only": ["fp32"]}, "is not of the kind of what the model gives (scores: "),
        ({"data": DATA[:0]}, "The data has no rows"),
        ({"right": np.zeros(200), "asked_metric": "f1"}, "There is no metric 'f1'"),
        ({"asked_metric": "accuracy"}, "A metric compares with what would be right"),
        (
            {"right": np.zeros(200), "asked_metric": lambda *_: np.nan, "only": ["fp32"]},
            "The metric is nan for the model in full precision",
        ),
    ],
)
def test_what_can_not_be_is_refused(path: Path, tmp_path: Path, asked: dict, told: str) -> None:
    known = {"target_name": "edge", "data": DATA, "limits": Limits()}
    with pytest.raises(UsageError) as caught:
        optimize(path, METADATA, tmp_path, **{**known, **asked})
    assert told in str(caught.value)


def _fails(*_: Any) -> float:
    return 1 / 0


def _forgets(*_: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"asked_metric": _fails},
            r"given as metric= failed \(.*test_optimize.py:\d+: `return 1 / 0`\): Zero",
        ),
        ({"asked_metric": _forgets}, r"given as metric= failed: TypeError"),
        ({"student": _fails}, r"given as student= failed \(.*test_optimize.py:\d+: `return 1 / 0`\): Zero"),
    ],
)
def test_a_function_of_the_users_that_fails_is_told_with_its_line(
    path: Path, tmp_path: Path, right: np.ndarray, asked: dict, told: str
) -> None:
    known = {"target_name": "edge", "data": DATA, "right": right, "limits": Limits(), "only": ["fp32"]}
    with pytest.raises(UsageError, match=told):
        optimize(path, METADATA, tmp_path, **known, **asked)


def test_a_metric_may_change_what_it_is_given(path: Path, tmp_path: Path, right: np.ndarray) -> None:
    def turned(answers: dict[str, np.ndarray], right: Any) -> float:
        if not seen:
            answers["scores"] *= -1
        seen.append(len(right))
        return 0.5

    seen: list[int] = []

    found = optimize(
        path, METADATA, tmp_path, target_name="edge", data=DATA, right=right, asked_metric=turned,
        limits=Limits(), only=["int8-dynamic"],
    )  # fmt: skip
    assert found.measured[1].agreement > 0.5


def test_the_best_form_becomes_a_variant(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path))
    registry = Registry()
    version = registry.add(path, "layers")
    expected = "models:/layers/1#web-int8-dynamic"
    for _ in range(2):  # the same once more is the same variant
        found = version.optimize("web", DATA, only=["int8-dynamic"], max_size=path.stat().st_size // 2)
        assert found.variant == expected
    variants = registry.get(expected).entry.variants
    assert [*variants] == ["web-int8-dynamic"]
    kept = variants["web-int8-dynamic"]
    assert kept.facts["target"] == "web"
    assert kept.files[0].size == found.best.size


def test_another_form_of_the_same_name_is_another_variant(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path))
    version = Registry().add(path, "layers")
    asked = {"only": ["int8-static"], "max_size": path.stat().st_size // 2}
    names = [version.optimize("edge", DATA * scale, **asked).variant for scale in (1, 9, 1)]
    assert [name.partition("#")[2] for name in names] == [
        "edge-arm64-int8-static", "edge-arm64-int8-static-2", "edge-arm64-int8-static"
    ]  # fmt: skip


def test_layers_that_are_gemm_have_weights_of_four_bits_too(tmp_path: Path) -> None:
    weights = np.random.default_rng(3).normal(size=(128, 64)).astype(np.float32)
    bias = np.arange(128, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["scores"], transB=1)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 128])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnxfile.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m"
    )
    facts = Metadata(Signature(SIGNATURE.inputs, (Tensor("scores", "float32", ("batch", 128)),)))
    how = {"target_name": "cpu", "data": DATA[:20], "limits": Limits(), "only": ["int4"]}
    found = optimize(tmp_path / "m", facts, tmp_path, **how)
    assert found.skipped == {}
    assert found.measured[1].size < 0.3 * found.full.size
    answers = onnxruntime.InferenceSession(found.measured[1].path).run(None, {"x": DATA})[0]
    assert np.corrcoef(answers.ravel(), (DATA @ weights.T + bias).ravel())[0, 1] > 0.99


def two_heads(path: Path) -> tuple[Path, Metadata]:
    """A model of two outputs, one of them from inside a branch, each with weights of its own."""
    random = np.random.default_rng(2)
    weights = {
        name: numpy_helper.from_array(random.normal(size=(64, size)).astype(np.float32), name)
        for name, size in (("small", 4), ("large", 4000))
    }
    yes = numpy_helper.from_array(np.array(True), "yes")
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "small"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["batch", 4])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["yes"], ["scores"], then_branch=branch, else_branch=branch),
            helper.make_node("MatMul", ["x", "large"], ["features"]),
        ],
        "heads",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4000]),
        ],
        [*weights.values(), yes],
    )
    onnxfile.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    outputs = (*SIGNATURE.outputs, Tensor("features", "float32", ("batch", 4000)))
    return path, Metadata(Signature(SIGNATURE.inputs, outputs), framework="onnx")


def test_outputs_that_are_not_needed_are_cut_off_with_what_only_they_need(tmp_path: Path) -> None:
    model, facts = two_heads(tmp_path / "m.onnx")
    (tmp_path / "forms").mkdir()
    how = {"target_name": "cpu", "data": DATA[:20], "limits": Limits(), "only": ["fp32"]}
    found = optimize(model, facts, tmp_path / "forms", outputs=["scores"], **how).full
    assert found.size < 0.01 * model.stat().st_size
    session = onnxruntime.InferenceSession(found.path)
    assert [each.name for each in session.get_outputs()] == ["scores"]
    whole = onnxruntime.InferenceSession(model).run(["scores"], {"x": DATA})[0]
    np.testing.assert_array_equal(session.run(None, {"x": DATA})[0], whole)
    assert Metadata.of(session.get_modelmeta().custom_metadata_map).signature == SIGNATURE
    with pytest.raises(UsageError, match=r"no output 'score'\. It has: scores, features"):
        optimize(model, facts, tmp_path / "forms", outputs=["score"], **how)
    with pytest.raises(UsageError, match="without outputs answers nothing"):
        optimize(model, facts, tmp_path / "forms", outputs=[], **how)


def test_a_student_learns_the_answers_and_is_measured_as_a_form_of_the_model(
    path: Path, right: np.ndarray, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")

    def student(inputs: dict[str, np.ndarray], answers: dict[str, np.ndarray]) -> object:
        torch.manual_seed(0)
        x, wanted = torch.tensor(inputs["x"]), torch.tensor(answers["scores"])
        model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        rate = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            rate.zero_grad()
            torch.nn.functional.mse_loss(model(x), wanted).backward()
            rate.step()
        return model.eval()

    choice = optimize(
        path, METADATA, tmp_path, target_name="edge", data=DATA, right=right, limits=Limits(max_drop=0.2),
        only=["fp32"], student=student,
    )  # fmt: skip
    assert choice.skipped == {}
    form = choice.measured[1]
    assert form.way == "student"
    assert form.size < choice.full.size
    assert form.accuracy > 0.8
    session = onnxruntime.InferenceSession(form.path)
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["x", "scores"]
    facts = Metadata.of(session.get_modelmeta().custom_metadata_map)
    assert facts is not None
    assert (facts.signature, bool(facts.verification["compared"])) == (SIGNATURE, True)
    assert "distilled from onnx" in facts.exporter


def test_a_student_that_gives_something_else_is_told_and_not_measured(path: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def asked(model: object) -> Choice:
        return optimize(
            path, METADATA, tmp_path, target_name="edge", data=DATA[:20], limits=Limits(), only=["fp32"],
            student=lambda inputs, answers: model,
        )  # fmt: skip

    assert "the student gives" in asked(torch.nn.Linear(64, 5).eval()).skipped["student"]
    assert "the student can't be exported" in asked(object()).skipped["student"]

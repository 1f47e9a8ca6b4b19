"""torch modules become ONNX that answers as they do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from nbcloud.errors import ExportError  # noqa: E402
from nbcloud.models.export import Exported  # noqa: E402


def takes(made: Exported) -> list[str]:
    return [str(each) for each in made.signature.inputs]


def gives(made: Exported) -> list[str]:
    return [str(each) for each in made.signature.outputs]


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(20), nn.Linear(20, 10))


@dataclasses.dataclass
class Answer:
    logits: Any
    hidden: Any


class Nested(nn.Module):
    def forward(self, a, *, b):
        return {"sum": a + b, "more": (a * b, [a - b]), "last": Answer(a.mean(1), None)}


def test_whatever_is_returned_has_names(run) -> None:
    made = run(Nested(), {"a": torch.randn(4, 3), "b": torch.randn(4, 3)})
    assert takes(made) == ["a: float32[batch, 3]", "b: float32[batch, 3]"]
    assert [each.name for each in made.signature.outputs] == ["sum", "more.0", "more.1.0", "last.logits"]
    named = run(nn.Linear(3, 2), torch.randn(4, 3), input_names=["x"], output_names=["y"])
    assert (takes(named), gives(named)) == (["x: float32[batch, 3]"], ["y: float32[batch, 2]"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_numbers(run, dtype: Any) -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4)).to(dtype)
    made = run(model, torch.randn(8, 10).to(dtype))
    expected = "float16" if dtype is torch.float16 else "float32"
    assert made.signature.inputs[0].dtype == expected
    assert made.report.precision == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("loss", [None, nn.BCEWithLogitsLoss(), nn.MultiLabelSoftMarginLoss()])
def test_log_sigmoid_ends_nowhere(run, loss: nn.Module | None) -> None:
    sample = torch.tensor([[-500.0, -100.0, 0.0], [1.0, 100.0, 500.0]])
    made = run(nn.LogSigmoid(), sample) if loss is None else run(loss, (sample, (sample > 0).float()))
    assert "large values" in made.report.compared


class ByMapping(nn.Module):
    def forward(self, batch):
        return batch["a"] + batch["b"], batch["a"].shape[0], {"x": batch["a"]}


def test_arguments_that_are_mappings_and_outputs_that_are_no_tensors(run) -> None:
    made = run(ByMapping(), {"a": torch.randn(4, 3), "b": torch.randn(4, 3)})
    assert takes(made) == ["batch.a: float32[batch, 3]", "batch.b: float32[batch, 3]"]
    assert [each.name for each in made.signature.outputs] == ["output", "2.x"]
    assert made.metadata.notes == ["Left out, since it is no tensor: output (int)."]


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        x.mul_(2)
        return {"x": x}


def test_neither_the_model_nor_the_sample_is_changed(run) -> None:
    model, sample = InPlace(), torch.ones(4, 3)
    model.train()
    made = run(model, sample)
    assert [each.name for each in made.signature.outputs] == ["x_output"]
    assert model.training
    assert float(model.seen) == 0
    assert bool((sample == 1).all())


def test_an_opset_is_the_one_that_was_asked_for(run) -> None:
    assert run(nn.Linear(3, 2), torch.randn(4, 3), opset=18).metadata.opset == 18
    with pytest.raises(ExportError, match="can't in opset 99"):
        run(nn.Linear(3, 2), torch.randn(4, 3), opset=99, exporter="dynamo")


def test_the_file_tells_nothing_of_this_machine_and_is_the_same_again(run) -> None:
    model, sample = layers(), torch.randn(4, 10)
    first = run(model, sample).path.read_bytes()
    assert run(model, sample).path.read_bytes() == first
    assert str(Path(__file__).parent).encode() not in first

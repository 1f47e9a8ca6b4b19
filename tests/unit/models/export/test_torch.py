"""torch modules become ONNX that answers as they do, or are refused with the reason and the line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime  # noqa: E402
from torch import nn  # noqa: E402

from nbcloud.errors import ExportError, UsageError, VerificationError  # noqa: E402
from nbcloud.models.export import Exported, Options, export  # noqa: E402


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def run(tmp_path: Path):
    def run(model: Any, sample: Any, **options: Any) -> Exported:
        return export(model, sample, name="m", path=tmp_path / "m.onnx", options=Options(**options))

    return run


def takes(made: Exported) -> list[str]:
    return [str(each) for each in made.signature.inputs]


def gives(made: Exported) -> list[str]:
    return [str(each) for each in made.signature.outputs]


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(20), nn.Linear(20, 10))


def test_the_batch_varies_also_when_the_sample_has_one_row_of_numpy(run) -> None:
    model = layers()
    made = run(model, np.ones((1, 10)), labels=list(range(10)))
    assert takes(made) == ["input: float32[batch, 10]"]
    assert gives(made) == ["output: float32[batch, 10]"]
    assert made.signature.outputs[0].labels == tuple(range(10))
    assert model.training
    assert {"the sample", "batch = 2", "the other sign", "large values"} <= made.report.compared.keys()
    found = onnxruntime.InferenceSession(made.path).run(None, {"input": np.ones((7, 10), np.float32)})[0]
    with torch.no_grad():
        expected = model.eval()(torch.ones(7, 10)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.lstm(self.embedding(ids))[0].mean(1))


def test_the_length_of_tokens_varies(run) -> None:
    made = run(Recurrent(), torch.randint(0, 50, (4, 7)))
    assert takes(made) == ["ids: int64[batch, length]"]
    assert "length = 10" in made.report.compared


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


def test_sizes_that_are_asked_for_vary_and_none_do_when_that_is_asked(run) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sample = torch.randn(2, 3, 12, 12)
    made = run(model, sample, dynamic={"input": {0: "batch", 2: "height", 3: "width"}})
    assert takes(made) == ["input: float32[batch, 3, height, width]"]
    assert takes(run(model, sample, dynamic=False)) == ["input: float32[2, 3, 12, 12]"]
    with pytest.raises(UsageError, match="There is no input 'x'"):
        run(model, sample, dynamic={"x": {0: "batch"}})


class BySize(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 3 else x * 3


def test_a_size_that_the_code_asks_for_is_fixed_and_noted(run) -> None:
    made = run(BySize(), torch.randn(4, 3))
    assert takes(made) == ["x: float32[4, 3]"]
    line = BySize.forward.__code__.co_firstlineno + 1
    assert made.metadata.notes == [
        f"'batch' is fixed at 4: with 1, the code does something else (test_torch.py:{line})."
    ]


class ByValue(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x * 3


class Chosen(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x * 3, (x,))


def test_a_decision_by_values_is_refused_with_its_line_and_made_with_cond(run) -> None:
    with pytest.raises(ExportError) as caught:
        run(ByValue(), torch.randn(4, 3))
    line = ByValue.forward.__code__.co_firstlineno + 1
    assert (
        f"decides by the values of its input ({__file__}:{line}: `if x.sum() > 0:`)" in caught.value.message
    )
    assert "torch.cond" in caught.value.hint
    assert run(Chosen(), torch.randn(4, 3)).report.worst <= 1


class Decomposed(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x)


@pytest.mark.parametrize(
    ("model", "sample", "told"),
    [
        (Decomposed(), torch.ones(4, 3, 3), "linalg_svd"),
        (Random(), torch.ones(4, 3), "it draws random numbers"),
        (Spectrum(), torch.ones(4, 3), "is complex"),
        (nn.Linear(3, 2), torch.ones(4, 5), "The model refuses the sample"),
        (nn.Linear(3, 2), "text", "has no tensor"),
    ],
    ids=["svd", "random", "complex", "shape", "text"],
)
def test_what_can_not_be_is_refused_with_a_cause(run, model: Any, sample: Any, told: str) -> None:
    with pytest.raises(ExportError) as caught:
        run(model, sample)
    assert told in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_numbers(run, dtype: Any) -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4)).to(dtype)
    made = run(model, torch.randn(8, 10).to(dtype))
    expected = "float16" if dtype is torch.float16 else "float32"
    assert made.signature.inputs[0].dtype == expected
    assert made.report.precision == str(dtype).removeprefix("torch.")


class Exporting(nn.Module):
    """Answers otherwise while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return hidden / (2 if torch.compiler.is_exporting() else 1)


def test_a_model_that_comes_out_otherwise_fails_and_what_proves_it_is_kept(run, tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as caught:
        run(Exporting(), torch.randn(4, 3), exporter="dynamo")
    assert "on 'the sample': output 'output'" in caught.value.message
    evidence = Path(caught.value.evidence)
    assert {"inputs.npz", "onnx.npz", "framework.npz", "difference.json", "m.onnx"} <= {
        each.name for each in evidence.iterdir()
    }

"""What can't become ONNX, or comes out otherwise, is refused with the reason and the line."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from nbcloud.errors import ExportError, VerificationError  # noqa: E402
from nbcloud.models import onnxfile  # noqa: E402
from nbcloud.models.export import Options  # noqa: E402
from nbcloud.models.export.torch import TorchModel  # noqa: E402
from nbcloud.models.verify import verify  # noqa: E402


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.lstm(self.embedding(ids))[0].mean(1))


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
        (Random(), torch.ones(4, 3), "it draws random numbers"),
        (Spectrum(), torch.ones(4, 3), "is complex"),
        (nn.Linear(3, 2), torch.ones(4, 5), "The model refuses the sample"),
        (nn.Linear(3, 2), "text", "has no tensor"),
    ],
    ids=["random", "complex", "shape", "text"],
)
def test_what_can_not_be_is_refused_with_a_cause(run, model: Any, sample: Any, told: str) -> None:
    with pytest.raises(ExportError) as caught:
        run(model, sample)
    assert told in caught.value.message
    assert caught.value.hint


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


class Passing(nn.Module):
    """Passes over what torch says of its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)

    def forward(self, x):
        with contextlib.suppress(Exception):
            if x.max() > 1e30:
                return self.first(x) * 0
        return self.first(x)


def test_a_branch_whose_error_the_model_passes_over_is_refused(run) -> None:
    with pytest.raises(
        ExportError, match=r"Passing decides by the values of its input .*if x\.max\(\) > 1e30:"
    ):
        run(Passing(), torch.randn(8, 4))


@pytest.mark.parametrize(
    ("rows", "told"), [(1, "with batch = 2, [2], than with 1, []"), (8, "with batch = 1, []")]
)
def test_an_output_whose_dimensions_go_away_is_told(run, rows: int, told: str) -> None:
    class Squeezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 1)

        def forward(self, x):
            return self.first(x).squeeze()

    made = run(Squeezing(), torch.randn(rows, 4))
    assert [str(each) for each in made.signature.outputs] == ["output: float32[batch]"]
    assert any(told in note for note in made.metadata.notes), made.metadata.notes


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return x + self.seen


@pytest.mark.parametrize(
    ("model", "sample", "told"),
    [
        (Counting(), torch.ones(4, 3), "or remembers what it saw"),
        (nn.Linear(3, 2, device="meta"), torch.ones(4, 3), "weights without values"),
        (nn.LazyLinear(3), torch.ones(4, 3), "sizes are not known yet"),
        (
            nn.Linear(3, 2),
            (torch.ones(4, 3), torch.ones(4, 3)),
            "has 2 parts, and the model's forward takes 1",
        ),
        (nn.Linear(3, 2), torch.ones(0, 3), "has no values"),
        (nn.Linear(3, 2), [], "is an empty list"),
        (nn.Linear(3, 2), torch.ones(4, 3, dtype=torch.cfloat), "ONNX has no complex numbers"),
        (nn.Sequential(nn.LSTM(3, 4, proj_size=2)), torch.ones(2, 5, 3), "LSTM (0) has proj_size=2"),
        (nn.CrossMapLRN2d(3), torch.ones(2, 4, 3, 3), "CrossMapLRN2d is no operation"),
    ],
    ids=["state", "meta", "lazy", "parts", "empty", "list", "complex", "projection", "lrn"],
)
def test_what_is_not_ready_is_refused_before_any_export(run, model: Any, sample: Any, told: str) -> None:
    with pytest.raises(ExportError) as caught:
        run(model, sample)
    assert told in caught.value.message
    assert caught.value.hint


def test_a_script_is_refused(run) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        script = torch.jit.trace(nn.Linear(3, 2), torch.ones(4, 3))
    with pytest.raises(ExportError, match="its Python code is gone"):
        run(script, torch.ones(4, 3))


def test_an_operator_that_onnx_has_not_is_told_with_the_line_that_uses_it(run) -> None:
    with pytest.raises(ExportError) as caught:
        run(Decomposed(), torch.randn(4, 3, 3), exporter="dynamo")
    line = Decomposed.forward.__code__.co_firstlineno + 1
    assert (
        f"linalg_svd.default, which Decomposed uses ({__file__}:{line}: `return torch" in caught.value.message
    )


def test_the_legacy_exporter_may_not_record_a_decision(run) -> None:
    with pytest.raises(ExportError, match="which the legacy exporter can't follow"):
        run(ByValue(), torch.randn(4, 3), exporter="legacy")


def test_the_first_operation_that_differs_is_told_with_its_line(run, tmp_path: Path) -> None:
    """The file is damaged between export and verification, as a wrong translation would."""
    model = TorchModel(Recurrent(), torch.randint(0, 50, (4, 7)), Options())
    path = tmp_path / "m.onnx"
    made = model.convert(path, Options(), "dynamo, fixed sizes")
    damaged = onnxfile.load(path)
    weight = next(each for each in damaged.graph.initializer if "head.weight" in each.name)
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 2).tobytes()
    onnxfile.save(damaged, path)
    with pytest.raises(VerificationError) as caught:
        verify(made, model, evidence=tmp_path / "evidence")
    line = Recurrent.forward.__code__.co_firstlineno + 1
    assert caught.value.data["step"].startswith(f"linear.default in 'head' ({__file__}:{line}:")


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, ids, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        return nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


def test_whole_numbers_that_the_exporter_took_for_fixed_are_found(run) -> None:
    with pytest.raises(VerificationError, match=r"on 'row \d repeated'"):
        run(Padded(), (torch.randint(0, 30, (3, 6)), torch.tensor([6, 4, 2])), exporter="legacy")


class ZeroPadded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, ids):
        return self.encoder(self.embedding(ids), src_key_padding_mask=ids == 0)


def test_padding_that_torch_alone_makes_zero_is_found_though_the_sample_has_none(run) -> None:
    model, sample = ZeroPadded(), torch.randint(1, 20, (3, 6))
    with pytest.raises(VerificationError, match=r"'zeros at the ends'.*use_nested_tensor = False ends that"):
        run(model, sample, exporter="dynamo")
    model.encoder.use_nested_tensor = False
    assert "zeros at the ends" in run(model, sample, exporter="dynamo").report.compared


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0]


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x)


@pytest.mark.parametrize(
    ("model", "sample", "told"),
    [
        (
            Packed(),
            (torch.randn(3, 7, 4), torch.tensor([7, 3, 5])),
            r"packed sequences .*test_refusals.py:\d+",
        ),
        (Casting(), torch.randn(6, 4), "Casting computes in bfloat16 inside, as torch.autocast does"),
    ],
    ids=["packed", "autocast"],
)
def test_what_onnx_can_not_compute_is_named(run, model: nn.Module, sample: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        run(model, sample)

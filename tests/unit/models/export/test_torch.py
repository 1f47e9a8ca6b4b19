"""torch modules become ONNX that answers as they do, or are refused with the reason and the line."""

from __future__ import annotations

import contextlib
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
from nbcloud.models import onnxfile  # noqa: E402
from nbcloud.models.export import Exported, Options, export  # noqa: E402
from nbcloud.models.export.torch import TorchModel  # noqa: E402
from nbcloud.models.verify import verify  # noqa: E402


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


class Hidden(nn.Module):
    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.decide = decide

    def forward(self, x):
        return x * 2 if self.decide(x.shape[0]) else x


@pytest.mark.parametrize(
    ("decide", "size"),
    [(lambda size: size > 100, 101), (lambda size: size == 77, 77), (lambda size: size // 10 == 5, 50)],
    ids=["above", "equal", "tens"],
)
def test_a_decision_by_sizes_far_from_the_sample_is_found(run, decide: Any, size: int) -> None:
    made = run(Hidden(decide), torch.randn(4, 3))
    assert takes(made) == ["x: float32[4, 3]"]
    (note,) = made.metadata.notes
    assert note.startswith(
        f"'batch' is fixed at 4: with {size}, the code does something else (test_torch.py:"
    )


def test_a_size_that_was_asked_to_vary_is_never_fixed_silently(run) -> None:
    with pytest.raises(
        ExportError, match="The dimension 'rows' can't vary: with 101, the code does"
    ) as caught:
        run(Hidden(lambda size: size > 100), torch.randn(4, 3), dynamic={"x": {0: "rows"}})
    assert "dynamic=" in caught.value.hint


def test_several_samples_tell_which_sizes_vary(run) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = run(model, [torch.randn(2, 3, 12, 12), torch.randn(1, 3, 12, 16)])
    assert takes(made) == ["input: float32[batch, 3, 12, input_3]"]
    with pytest.raises(ExportError, match="not of the same kind"):
        run(Nested(), [{"a": torch.randn(2, 3), "b": torch.randn(2, 3)}, {"a": torch.randn(2, 3)}])


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


def test_an_opset_is_the_one_that_was_asked_for(run) -> None:
    assert run(nn.Linear(3, 2), torch.randn(4, 3), opset=18).metadata.opset == 18
    with pytest.raises(ExportError, match="can't in opset 99"):
        run(nn.Linear(3, 2), torch.randn(4, 3), opset=99, exporter="dynamo")


class Attending(nn.Module):
    """A small decoder, as those that write text."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.norm, self.inner = nn.LayerNorm(16), nn.Linear(16, 48)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, input_ids, attention_mask):
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        query, key, value = (
            part.view(*part.shape[:2], 2, 8).transpose(1, 2) for part in self.inner(self.norm(x)).chunk(3, -1)
        )
        mask = attention_mask[:, None, None, :].bool().expand(-1, -1, input_ids.shape[1], -1)
        found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = x + found.transpose(1, 2).flatten(2)
        return {"logits": self.head(hidden), "hidden_states": (x, hidden)}


def test_a_decoder_s_batch_and_length_vary_together_with_its_mask(run) -> None:
    tokens = torch.randint(0, 50, (1, 7))
    made = run(Attending(), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)})
    assert takes(made) == ["input_ids: int64[batch, length]", "attention_mask: int64[batch, length]"]
    assert gives(made) == [
        "logits: float32[batch, length, 50]",
        "hidden_states.0: float32[batch, length, 16]",
        "hidden_states.1: float32[batch, length, 16]",
    ]
    assert "length = 32" not in made.report.skipped


def test_the_file_tells_nothing_of_this_machine_and_is_the_same_again(run) -> None:
    model, sample = layers(), torch.randn(4, 10)
    first = run(model, sample).path.read_bytes()
    assert run(model, sample).path.read_bytes() == first
    assert str(Path(__file__).parent).encode() not in first


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


class Rows(nn.Module):
    def forward(self, x):
        return [2 * each for each in x.unbind(0)]


class Sometimes(nn.Module):
    def forward(self, x):
        return (x + 1, x * 2) if x.shape[0] > 3 else (x + 1,)


@pytest.mark.parametrize("model", [Rows(), Sometimes()])
def test_a_size_that_decides_how_many_outputs_there_are_is_fixed(run, model: nn.Module) -> None:
    made = run(model, torch.randn(6, 4))
    assert takes(made) == ["x: float32[6, 4]"]


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
        (Packed(), (torch.randn(3, 7, 4), torch.tensor([7, 3, 5])), r"packed sequences .*test_torch.py:\d+"),
        (Casting(), torch.randn(6, 4), "Casting computes in bfloat16 inside, as torch.autocast does"),
    ],
    ids=["packed", "autocast"],
)
def test_what_onnx_can_not_compute_is_named(run, model: nn.Module, sample: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        run(model, sample)

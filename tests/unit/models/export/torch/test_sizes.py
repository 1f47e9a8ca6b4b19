"""Which sizes of a torch module's inputs and outputs vary, and which are fixed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime  # noqa: E402
from torch import nn  # noqa: E402

from nbcloud.errors import ExportError, UsageError  # noqa: E402
from nbcloud.models.export import Exported  # noqa: E402


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
        f"'batch' is fixed at 4: with 1, the code does something else (test_sizes.py:{line})."
    ]


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
        f"'batch' is fixed at 4: with {size}, the code does something else (test_sizes.py:"
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

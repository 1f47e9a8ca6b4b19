"""Steps before a model's graph: numpy alone does what they say, and what can't be right is refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nbcloud.errors import ModelError, SchemaError
from nbcloud.models import steps
from nbcloud.models.signature import Tensor

TEXT = Tensor("text", "str", ("batch", 1))


def step(**options: Any) -> dict[str, Any]:
    told = {
        "step": steps.LOOK_UP,
        "takes": TEXT.to_json(),
        "gives": "tokens",
        "dtype": "int64",
        "split": "whitespace",
        "vocabulary": ["a", "北京"],
        "first": 2,
        "unknown": 1,
        "mask": "",
        "mode": "int",
        **options,
    }
    return json.loads(json.dumps(told))


def texts(*rows: str) -> dict[str, Any]:
    return {"text": np.array(rows, object)[:, None]}


def test_words_become_their_numbers_and_rows_are_filled_up() -> None:
    made = steps.apply([step()], texts("a 北京 x", "a"))
    assert made["tokens"].tolist() == [[2, 3, 1], [2, 0, 0]]
    assert list(made) == ["tokens"]
    cut = steps.apply([step(length=2, split="character", vocabulary=["北"])], texts("北京大"))
    assert cut["tokens"].tolist() == [[2, 1]]


def test_other_inputs_pass_and_one_text_may_feed_two_steps() -> None:
    made = steps.apply([step(), step(gives="count", mode="count", size=4)], {**texts("a a"), "age": 3})
    assert made["tokens"].tolist() == [[2, 2]]
    assert made["count"].tolist() == [[0, 0, 2, 0]]
    assert made["age"] == 3


def test_the_whole_model_takes_texts_where_its_graph_takes_numbers() -> None:
    graph = (Tensor("age", "float32", ("batch", 1)), Tensor("tokens", "int64", ("batch", "tokens")))
    assert steps.outer([step()], graph) == (graph[0], TEXT)


def test_what_the_vocabulary_has_not_is_named() -> None:
    with pytest.raises(
        SchemaError, match=r"The input 'text' has 'x', which the model's vocabulary has not\."
    ):
        steps.apply([step(unknown=None)], texts("a x"))
    with pytest.raises(SchemaError, match=r"The input 'text' is missing\."):
        steps.apply([step()], {"txt": 1})


def test_a_step_of_a_later_nbcloud_is_refused() -> None:
    with pytest.raises(ModelError, match="needs the step 'resample' before its graph"):
        steps.apply([{"step": "resample"}], {})

"""What is done to a model's input before its graph: the steps that ONNX can't express, as plain JSON.

Runs on devices, too: Python 3.9 and numpy only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nbcloud.errors import ModelError, SchemaError
from nbcloud.models import words
from nbcloud.models.signature import TEXT, Feeds, Tensor

LOOK_UP = "look_up"
"""The step that gives texts, their words or characters, or whole numbers, their numbers in a vocabulary.

``takes``: the input, as `Tensor.to_json`; ``gives``: the name of what it makes, and ``dtype`` of that.
``standardize``: ``lower``, ``strip_punctuation``, both as ``lower_and_strip_punctuation``, or nothing.
``split``: ``whitespace``, ``character``, or nothing. ``ngrams``: how many tokens are joined, each in turn.
``vocabulary``: the tokens; the first has the number ``first``. ``unknown``: the number of any other;
without it, others are refused. ``mask``: a token that stands for nothing: number 0, or not counted.
``mode``: ``int``, ``one_hot``, ``multi_hot``, ``count`` or ``tf_idf``, with ``size`` places, and
``weights`` of each. ``length``: tokens of each text, cut or filled up with 0.
"""

# As TensorFlow has them: ASCII only, whatever the language.
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_PUNCTUATION = re.compile(r'[!"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\']')
_SPACES = re.compile("[\t-\r ]+")


def apply(steps: Iterable[Mapping[str, Any]], feeds: Mapping[str, Any]) -> Feeds:
    """What the ONNX model is fed, for what the whole model takes (see `prepared`)."""
    return prepared(steps)(feeds)


def prepared(steps: Iterable[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], Feeds]:
    """What does the steps, for a model that answers often: vocabularies are ordered once.

    It takes what the whole model takes, by the inputs' names, and gives what the ONNX model is fed.

    Raises
    ------
    ModelError
        When a step is of a later nbcloud.
    SchemaError
        In use: when an input is missing, or has what the vocabulary has not and no number stands for.
    """
    ready = [(step, Tensor.from_json(step["takes"]), make) for step, make in map(_maker, steps)]
    given = {step["gives"] for step, _, _ in ready}
    used = {takes.name for step, takes, _ in ready if not step.get("keeps")}

    def do(feeds: Mapping[str, Any]) -> Feeds:
        made = dict(feeds)
        for step, takes, make in ready:
            if takes.name not in feeds:
                raise SchemaError(
                    f"The input {takes.name!r} is missing.", f"The model takes {takes}.", input=takes.name
                )
            made[step["gives"]] = make(takes.accept(feeds[takes.name]))
        return {name: value for name, value in made.items() if name in given or name not in used}

    return do


def _maker(step: Mapping[str, Any]) -> tuple[Mapping[str, Any], Callable[[Any], Any]]:
    """A step, and what it makes of its input's values."""
    kind = step.get("step")
    if kind == LOOK_UP:
        return step, _look_up(step)
    if kind == words.COUNT_WORDS:
        count = words.counter(step)
        return step, lambda values: count(values.ravel().tolist())
    raise ModelError(
        f"The model needs the step {kind!r} before its graph; nbcloud has none such.",
        "Type: pip install -U nbcloud",
    )


def outer(steps: Iterable[Mapping[str, Any]], inputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """What the whole model takes: the graph's inputs, those that a step makes replaced by the step's own."""
    sources = {step["gives"]: Tensor.from_json(step["takes"]) for step in steps if "gives" in step}
    found = {each.name: each for each in (sources.get(each.name, each) for each in inputs)}
    return tuple(found.values())


def _look_up(step: Mapping[str, Any]) -> Callable[[Any], Any]:
    mode, length = step.get("mode", "int"), step.get("length")
    takes = Tensor.from_json(step["takes"])
    numbers = {token: place for place, token in enumerate(step["vocabulary"], int(step.get("first", 0)))}
    if step.get("mask") is not None:
        numbers[step["mask"]] = 0 if mode == "int" else -1
    unknown = step.get("unknown")

    def number(token: Any) -> int:
        found = numbers.get(token, unknown)
        if found is None:
            raise SchemaError(
                f"The input {takes.name!r} has {token!r}, which the model's vocabulary has not.",
                f"It has {len(step['vocabulary'])}: {', '.join(map(str, step['vocabulary'][:10]))} …",
                input=takes.name,
            )
        return int(found)

    def split(values: Any) -> Any:
        rows = [[number(token) for token in _tokens(step, text)] for text in values.ravel().tolist()]
        return _padded(rows, length) if mode == "int" else _encoded(rows, mode, step)

    def whole(values: Any) -> Any:
        flat = values.ravel().tolist()
        if takes.dtype == TEXT:
            flat = [_standard(step, text) for text in flat]
        found = np.array([number(token) for token in flat], np.int64).reshape(values.shape)
        if mode == "int":
            return found if length is None else _padded(found.tolist(), length)
        if mode == "one_hot":
            if found.ndim > 1 and found.shape[-1] == 1:
                found = found[..., 0]
            return found[..., None] == np.arange(int(step["size"]))
        return _encoded(found.tolist(), mode, step)

    make = split if step.get("split") else whole
    return lambda values: make(values).astype(step["dtype"])


def _standard(step: Mapping[str, Any], text: str) -> str:
    told = step.get("standardize") or ""
    if told.startswith("lower"):
        text = text.translate(_LOWER)
    return _PUNCTUATION.sub("", text) if told.endswith("strip_punctuation") else text


def _tokens(step: Mapping[str, Any], text: str) -> list[str]:
    text = _standard(step, text)
    tokens = list(text) if step["split"] == "character" else list(filter(None, _SPACES.split(text)))
    widths = step.get("ngrams")
    if not widths:
        return tokens
    return [
        " ".join(tokens[start : start + width])
        for width in widths
        for start in range(len(tokens) - width + 1)
    ]


def _padded(rows: Sequence[Sequence[int]], length: int | None) -> Any:
    """Rows of one length: cut, or filled up with 0."""
    width = max((len(row) for row in rows), default=0) if length is None else length
    made = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        kept = row[:width]
        made[place, : len(kept)] = kept
    return made


def _encoded(rows: Sequence[Sequence[int]], mode: str, step: Mapping[str, Any]) -> Any:
    """How often, or whether, each number is in each row."""
    counts = np.zeros((len(rows), int(step["size"])), np.float32)
    for place, row in enumerate(rows):
        np.add.at(counts[place], np.array([number for number in row if number >= 0], np.int64), 1)
    if mode == "multi_hot":
        return np.minimum(counts, 1)
    return counts * np.asarray(step["weights"], np.float32) if mode == "tf_idf" else counts

"""Who answers for ONNX: its reference implementation in numpy, or onnxruntime without optimisations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.models.signature import Feeds

_STEPS = 3
"""Of 8 bits, by which rounding in several layers may move an answer."""
Answers = Callable[[Feeds], Feeds]
"""What a model gives for what it takes."""


def by_reference(model: Any) -> Answers:
    """The answers of ONNX's reference implementation; ``model`` is one, or a path."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model) if isinstance(model, Path) else model)
    names = list(evaluator.output_names)

    def answers(feeds: Feeds) -> Feeds:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = evaluator.run(None, dict(feeds))
        return dict(zip(names, map(np.asarray, found), strict=True))

    return answers


def by_onnxruntime(path: Path, *, optimised: bool = False) -> Answers:
    """The answers of onnxruntime, by default without any optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def answers(feeds: Feeds) -> Feeds:
        given = {name: np.asarray(value) for name, value in feeds.items()}
        return dict(zip(names, session.run(names, given), strict=True))

    return answers


def forgiving(reference: Answers, plain: Answers, sample: Feeds) -> Answers:
    """The reference's answers, but where on made values its plain formulas alone overflow.

    Made values that onnxruntime refuses are refused: the reference takes places from the end, for example.
    """

    def answers(feeds: Feeds) -> Feeds:
        if feeds is sample:
            return reference(feeds)
        others, found = plain(feeds), reference(feeds)
        if not all(_finite(value) for value in feeds.values()):
            return found
        return {
            name: value if _finite(value) else _filled(value, others[name]) for name, value in found.items()
        }

    return answers


def by_steps(answers: Answers, path: Path) -> Answers:
    """The answers, but onnxruntime's where these are a few steps of 8 bits away, as rounding has it."""
    optimised = by_onnxruntime(path, optimised=True)

    def near(feeds: Feeds) -> Feeds:
        found = answers(feeds)
        others = optimised(feeds)
        return {name: nearest_step(value, others[name]) for name, value in found.items()}

    return near


def nearest_step(value: Any, other: Any) -> Any:
    """The value, but the other where that is a few steps of 8 bits away."""
    if value.dtype.kind != "f" or value.shape != other.shape or not value.size:
        return value
    step = np.max(np.abs(value), where=np.isfinite(value), initial=0) / 255
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(value - other) <= _STEPS * step, other, value)


def _finite(value: Any) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _filled(value: Any, other: Any) -> Any:
    if value.shape != other.shape:
        return value
    return np.where(np.isfinite(value) | ~np.isfinite(other), value, other)


def with_first_row(reference: Answers, plain: Answers) -> Answers:
    """The reference's answer to the first row, and the plain ones to the others."""

    def answers(feeds: Feeds) -> Feeds:
        found = plain(feeds)
        first = reference({name: value[:1] for name, value in feeds.items()})
        return {name: np.concatenate([first[name], value[1:]]) for name, value in found.items()}

    return answers


def is_by_row(plain: Answers, feeds: Feeds) -> bool:
    """Whether each row is answered on its own."""
    try:
        first, whole = plain({name: value[:1] for name, value in feeds.items()}), plain(feeds)
    except Exception:  # noqa: BLE001 - then it is not
        return False
    return all(
        value.shape[1:] == first[name].shape[1:] and len(first[name]) == 1 and len(value) > 0
        for name, value in whole.items()
        if value.ndim or first[name].ndim
    ) and all(
        value.dtype.kind != "f" or np.allclose(value[:1], first[name], rtol=1e-3, atol=1e-5, equal_nan=True)
        for name, value in whole.items()
        if value.ndim
    )

"""What is done with a model's answers, declared as plain JSON. Runs on devices: Python 3.9 and numpy.

Each step names an output: ``{"step": "softmax", "output": "logits"}``.

=========== ================================================================================================
``softmax`` probabilities of scores, over the last dimension
``sigmoid`` probabilities of scores, each for itself
``argmax``  a further output ``to``: the label, or the place, of the largest in the last dimension
``above``   a further output ``to``: whether the value is above ``threshold``
=========== ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbcloud.errors import UsageError
from nbcloud.models.signature import Feeds, Signature

_KEYS = {"softmax": set(), "sigmoid": set(), "argmax": {"to"}, "above": {"to", "threshold"}}
LABEL = "label"
"""The output that labels are given under where no step says otherwise."""


def check(steps: Sequence[Mapping[str, Any]], outputs: Sequence[str]) -> None:
    """Refuse steps that can't be done with a model of these outputs.

    Raises
    ------
    UsageError
        Names the step.
    """
    known = list(outputs)
    for step in steps:
        kind = step.get("step")
        if kind not in _KEYS:
            raise UsageError(f"There is no postprocessing step {kind!r}.", f"There are: {', '.join(_KEYS)}.")
        wanted = {"step", "output"} | _KEYS[kind]
        if set(step) != wanted:
            raise UsageError(
                f"The step {dict(step)} must have {', '.join(sorted(wanted))}, and nothing else."
            )
        if step["output"] not in known:
            raise UsageError(
                f"The postprocessing step {kind!r} is of an output {step['output']!r} that there is not.",
                f"There are: {', '.join(known)}.",
            )
        if "to" in step:
            known.append(step["to"])


def apply(steps: Sequence[Mapping[str, Any]], signature: Signature, answers: Feeds) -> Feeds:
    """The answers after all steps, and with labels where the model gives scores of known classes alone."""
    labels = {each.name: each.labels for each in signature.outputs}
    made = dict(answers)
    for step in steps:
        name = step["output"]
        value = made[name]
        if step["step"] == "softmax":
            grown = np.exp(value - np.max(value, axis=-1, keepdims=True))
            made[name] = grown / grown.sum(axis=-1, keepdims=True)
        elif step["step"] == "sigmoid":
            made[name] = (1 / (1 + np.exp(-np.clip(value, -80, 80)))).astype(value.dtype)
        elif step["step"] == "argmax":
            made[step["to"]] = _named(np.argmax(value, axis=-1), labels.get(name, ()))
        else:
            made[step["to"]] = np.asarray(value) > step["threshold"]
    scores = [each for each in signature.outputs if _scores(each.labels, answers[each.name])]
    if len(scores) == 1 and len(signature.outputs) == 1 and LABEL not in made:
        made[LABEL] = _named(np.argmax(made[scores[0].name], axis=-1), scores[0].labels)
    return made


def _scores(labels: Sequence[Any], value: Any) -> bool:
    shape = np.shape(value)
    return bool(labels) and bool(shape) and shape[-1] == len(labels) and np.asarray(value).dtype.kind == "f"


def _named(places: Any, labels: Sequence[Any]) -> Any:
    return np.asarray(labels)[places] if labels else places

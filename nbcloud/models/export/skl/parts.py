"""What an estimator is made of: the estimators inside of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def is_part(value: Any) -> bool:
    """Whether this is an estimator, or one of the few classes that scikit-learn wraps one in."""
    from sklearn.base import BaseEstimator

    # Each fold of a CalibratedClassifierCV is no estimator by its class.
    return isinstance(value, BaseEstimator) or type(value).__name__ == "_CalibratedClassifier"


def parts(model: Any) -> Iterator[Any]:
    """An estimator and all those inside of it."""
    yield model
    for value in vars(model).values():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            for part in each if isinstance(each, tuple) else [each]:
                if is_part(part) and not isinstance(part, type):
                    yield from parts(part)


def trained(model: Any) -> Iterator[Any]:
    """As `parts`, without what is only a template of what was trained."""
    yield model
    for name, value in vars(model).items():
        if is_template(model, name):
            continue
        for each in value if isinstance(value, (list, tuple)) else [value]:
            for part in each if isinstance(each, tuple) else [each]:
                if is_part(part) and not isinstance(part, type):
                    yield from trained(part)


def is_template(model: Any, name: str) -> bool:
    """Whether an attribute is only what was to be trained, and another one what was."""
    return name in _TEMPLATES and any(f"{name}{end}" in vars(model) for end in ("_", "s_"))


_TEMPLATES = (
    "estimator", "base_estimator", "estimators", "final_estimator", "transformers", "regressor",
    "transformer",
    "best_estimator", "calibrated_classifiers",
)  # fmt: skip


def last(model: Any) -> Any:
    """The estimator that gives the answers: a pipeline's last step."""
    while getattr(model, "steps", None):
        model = model.steps[-1][1]
    return model

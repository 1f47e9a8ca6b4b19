"""scikit-learn: each outermost ``fit`` of an estimator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from nbcloud.runs import tracking
from nbcloud.runs.autolog import harmless, outermost, replaced, whole

_SCORED_ROWS = 100_000


def fit_in(module: ModuleType) -> Callable[[], None]:
    """Wrap ``fit`` of all estimators that there are, and of those that will be defined."""
    base = module.BaseEstimator
    undo: list[Callable[[], None]] = []

    def fit_class(kind: type) -> None:
        if callable(kind.__dict__.get("fit")):
            undo.append(replaced(kind, "fit", _logged))

    for kind in _subclasses(base):
        fit_class(kind)
    before = base.__dict__.get("__init_subclass__")
    inherited = before.__func__ if before is not None else None

    def init_subclass(cls: type, /, **options: Any) -> None:
        if inherited is not None:
            inherited(cls, **options)
        else:
            super(base, cls).__init_subclass__(**options)
        fit_class(cls)

    base.__init_subclass__ = classmethod(init_subclass)

    def undo_all() -> None:
        if before is None:
            del base.__init_subclass__
        else:
            base.__init_subclass__ = before
        while undo:
            undo.pop()()

    return undo_all


def _subclasses(kind: type) -> set[type]:
    found: set[type] = set(kind.__subclasses__())
    return found.union(*(_subclasses(each) for each in found))


def _logged(fit: Any) -> Callable[..., Any]:
    def logged_fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not outermost():
            return fit(self, *args, **kwargs)
        with whole(type(self).__name__):
            with harmless():
                tracking.log_params(self.get_params(deep=True))
                tracking.set_tag("estimator", f"{type(self).__module__}.{type(self).__qualname__}")
            result = fit(self, *args, **kwargs)
            with harmless():
                _log_fitted(self, *args, **kwargs)
            return result

    return logged_fit


def _log_fitted(estimator: Any, X: Any = None, y: Any = None, *_args: Any, **_kwargs: Any) -> None:  # noqa: N803
    if hasattr(estimator, "cv_results_"):
        _log_search(estimator)
    if X is None:
        return
    outputs = estimator.predict(X[:1]) if hasattr(estimator, "predict") else None
    tracking.record("signature", {"inputs": schema(X), "outputs": schema(outputs)})
    rows = len(X) if hasattr(X, "__len__") else _SCORED_ROWS + 1
    if y is not None and hasattr(estimator, "score") and rows <= _SCORED_ROWS:
        tracking.log_metric("training_score", estimator.score(X, y))


def _log_search(search: Any) -> None:
    results = search.cv_results_
    for key in (key for key in results if key.startswith(("mean_test_", "mean_fit_time"))):
        for step, value in enumerate(results[key]):
            tracking.log_metric(f"cv_{key}", value, step=step)
    tracking.record("cv_results", {key: [str(value) for value in values] for key, values in results.items()})
    if hasattr(search, "best_params_"):
        tracking.log_params({f"best_{key}": value for key, value in search.best_params_.items()})
        tracking.log_metric("best_score", search.best_score_)


def schema(data: Any) -> Any:
    """Names, types and shapes of what goes in or comes out; the first axis is left open."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return [{"name": str(name), "type": str(kind)} for name, kind in data.dtypes.items()]
    shape, kind = getattr(data, "shape", None), getattr(data, "dtype", None)
    if shape is None:
        return None if data is None else type(data).__name__
    return {"shape": [None, *map(int, shape[1:])], "type": str(kind)}

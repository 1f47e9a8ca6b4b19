"""``nbcloud.autolog()``: what frameworks are told and what they say, logged without a change to the code.

Each framework is fitted when it is there, or else when it is imported. What logging does wrong never reaches
the user's code.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from nbcloud.imported import when_imported
from nbcloud.runs import tracking

logger = logging.getLogger(__name__)

_FRAMEWORKS = {
    "sklearn.base": "nbcloud.runs.autologs.sklearn",
    "keras": "nbcloud.runs.autologs.keras",
    "torch": "nbcloud.runs.autologs.torch",
}
"""Modules, and those that fit them: each has ``fit_in(module)``, which returns what undoes it."""
_undo: dict[str, Callable[[], None]] = {}
_waiting: list[Callable[[], None]] = []
_inside = contextvars.ContextVar("nbcloud_autolog", default=False)


def autolog(*, disable: bool = False) -> None:
    """Log what scikit-learn, Keras and torch are told and say, from now on.

    - scikit-learn: each ``fit`` is a nested run with the estimator's parameters, its score on what it was
      fitted to, and the signature; a search has its candidates' scores, too. What other processes fit
      (``n_jobs``) is seen only as a part of that.
    - Keras: each ``Model.fit`` is a nested run with its parameters, the optimizer's, and all losses and
      metrics of each epoch.
    - torch: optimizers' parameters and learning rates, and the scalar on which ``backward()`` was called
      before each step, as ``loss``; on a GPU, some 20 times a second. Other metrics of a loop can't be seen.

    Parameters
    ----------
    disable : bool, optional
        Log nothing of this any more.
    """
    while _waiting:
        _waiting.pop()()
    if disable:
        while _undo:
            _undo.popitem()[1]()
        return
    for name in _FRAMEWORKS:
        _waiting.append(when_imported(name, functools.partial(_fit_in, name)))


def _fit_in(name: str, module: ModuleType) -> None:
    if name not in _undo:
        with harmless():
            _undo[name] = importlib.import_module(_FRAMEWORKS[name]).fit_in(module)


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Let nothing out that goes wrong inside; of what ends the process or interrupts it, all."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of nbcloud, or of an estimator's own methods
        logger.warning("nbcloud.autolog could not log something: %s: %s", type(error).__name__, error)


def outermost() -> bool:
    """Whether nothing that is logged as a whole goes on around this."""
    return not _inside.get()


@contextlib.contextmanager
def whole(name: str) -> Iterator[None]:
    """A nested run, where one can be begun; what goes on inside is a part of it."""
    run, began = tracking.start_run(name, tags={"autolog": "true"}), False
    with harmless():
        run.__enter__()
        began = True
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
        if began:
            with harmless():
                run.__exit__(*sys.exc_info())


def replaced(owner: Any, name: str, wrap: Callable[[Any], Callable[..., Any]]) -> Callable[[], None]:
    """Put a wrapper in place of a method; returns what puts the method back."""
    method = owner.__dict__[name]
    wrapper = functools.wraps(method)(wrap(method))
    setattr(owner, name, wrapper)

    def undo() -> None:
        if owner.__dict__.get(name) is wrapper:
            setattr(owner, name, method)

    return undo

"""Keras: each ``Model.fit``, by a callback."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from nbcloud.runs import tracking
from nbcloud.runs.autolog import harmless, outermost, replaced, whole


def fit_in(module: ModuleType) -> Callable[[], None]:
    """Wrap ``fit`` where models have it from."""
    owner = next(kind for kind in module.Model.__mro__ if "fit" in kind.__dict__)

    def wrap(fit: Any) -> Callable[..., Any]:
        signature = inspect.signature(fit)

        def logged_fit(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not outermost():
                return fit(self, *args, **kwargs)
            with whole(self.name):
                with harmless():
                    bound = signature.bind(self, *args, **kwargs)
                    _log_asked(self, {**bound.arguments})
                    own = _callback(module)
                    given = bound.arguments.get("callbacks")
                    if isinstance(given, module.callbacks.CallbackList):
                        given.append(own)
                    else:
                        before = given if isinstance(given, list | tuple) else [given] if given else []
                        bound.arguments["callbacks"] = [*before, own]
                    args, kwargs = bound.args[1:], bound.kwargs
                return fit(self, *args, **kwargs)

        return logged_fit

    return replaced(owner, "fit", wrap)


def _callback(keras: ModuleType) -> Any:
    class Logged(keras.callbacks.Callback):  # type: ignore[name-defined]
        """Metrics of each epoch."""

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            with harmless():
                tracking.log_metrics(logs or {}, step=epoch)

    return Logged()


def _log_asked(model: Any, asked: dict[str, Any]) -> None:
    names = ("epochs", "batch_size", "validation_split", "shuffle", "initial_epoch", "steps_per_epoch")
    tracking.log_params({name: asked[name] for name in names if name in asked})
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        settings = {f"optimizer_{key}": value for key, value in optimizer.get_config().items()}
        tracking.log_params(settings)
    loss = getattr(model, "loss", None)
    tracking.log_param("loss", loss if isinstance(loss, str) else getattr(loss, "name", str(loss)))
    with harmless():  # a model that has not been built has no shapes yet
        tracking.log_param("parameters", model.count_params())
        shapes = {"inputs": model.input_shape, "outputs": model.output_shape}
        tracking.record("signature", {key: str(shape) for key, shape in shapes.items()})

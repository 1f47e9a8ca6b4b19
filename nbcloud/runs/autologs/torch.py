"""torch: what optimizers are told, and the losses before their steps."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from nbcloud.runs import tracking
from nbcloud.runs.autolog import harmless, outermost, replaced

_GPU_SECONDS = 0.05
"""Between two losses that are brought from a GPU: each has it finish all that it was given."""


class _Watched:
    """What is known of one optimizer."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        self.step = 0
        self.rate: float | None = None
        self.logged = 0.0


def fit_in(torch: ModuleType) -> Callable[[], None]:
    """Hook into all optimizers, and into ``Tensor.backward``."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    optimizers: weakref.WeakKeyDictionary[Any, _Watched] = weakref.WeakKeyDictionary()
    losses: list[Any] = []

    def wrap(backward: Any) -> Callable[..., Any]:
        def watched_backward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.ndim == 0 or self.numel() == 1:
                losses[:] = [self.detach()]
            return backward(self, *args, **kwargs)

        return watched_backward

    def stepped(optimizer: Any, _args: Any, _kwargs: Any) -> None:
        if outermost():
            with harmless():
                _log_step(optimizers, optimizer, losses)

    handle = register_optimizer_step_post_hook(stepped)
    undo_backward = replaced(torch.Tensor, "backward", wrap)

    def undo() -> None:
        handle.remove()
        undo_backward()

    return undo


def _log_step(optimizers: Any, optimizer: Any, losses: list[Any]) -> None:
    known = optimizers.get(optimizer)
    if known is None:
        known = optimizers[optimizer] = _Watched(f"_{len(optimizers)}" if optimizers else "")
        settings = {key: value for key, value in optimizer.defaults.items() if value is not None}
        settings["name"] = type(optimizer).__name__
        tracking.log_params({f"optimizer{known.suffix}_{key}": value for key, value in settings.items()})
    rate = optimizer.param_groups[0]["lr"]
    if float(rate) != known.rate:
        known.rate = float(rate)
        tracking.log_metric(f"lr{known.suffix}", known.rate, step=known.step)
    if losses and (losses[0].device.type == "cpu" or time.monotonic() - known.logged > _GPU_SECONDS):
        known.logged = time.monotonic()
        tracking.log_metric(f"loss{known.suffix}", float(losses.pop()), step=known.step)
    known.step += 1

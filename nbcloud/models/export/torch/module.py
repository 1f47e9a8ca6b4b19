"""Modules for the export: a copy that shares the weights, and one around it that tensors go through."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nbcloud.errors import ExportError
from nbcloud.models.export.torch import structure


def copied(model: Any) -> Any:
    """The module's parts anew, with the same weights; those of another device are brought here."""
    import torch

    known: dict[int, Any] = {}
    for part in model.modules():
        for value in (*part._parameters.values(), *vars(part).values()):
            if isinstance(value, torch.Tensor):
                if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
                    raise ExportError(
                        f"{type(model).__name__} has weights whose sizes are not known yet.",
                        "Call it once, with the sample, and train it.",
                    )
                if value.is_meta:
                    raise ExportError(
                        f"{type(model).__name__} has weights without values (on the device 'meta').",
                        "Load its weights first.",
                    )
                kept = value.detach().cpu()
                weight = isinstance(value, torch.nn.Parameter)
                known[id(value)] = torch.nn.Parameter(kept, requires_grad=False) if weight else kept
    try:
        made = copy.deepcopy(model, known)
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} can't be copied for its export: {error}.",
            "Take what can't be copied out of the module, such as locks and open files.",
        ) from error
    for part in made.modules():
        part.training = False
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.cpu()
    return made


def flat(model: Any, call: structure.Call) -> Any:
    """A module around this one, from tensors to a tuple of tensors."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            return tuple(structure.answers(call(self.model, tensors))[0].values())

    return Flat().eval()


def array(tensor: Any) -> Any:
    """A tensor as an array of its own; bfloat16, which numpy has not, as float32."""
    import torch

    if tensor is None:
        return np.zeros(0)
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())

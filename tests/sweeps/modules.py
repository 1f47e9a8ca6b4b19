"""The modules of ``torch.nn``, exported with the arguments and inputs that torch's own tests give them.

    pip install expecttest  # which torch's tests need
    python -m tests.sweeps.modules [--processes 2] [NAME …]

Of the cases of one module, up to `CASES` are taken, spread over all; what those tests leave out is in `OTHERS`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tests.sweeps import sweep

CASES = 6
PICTURES = (2, 4, 8, 6)
OTHERS: Mapping[str, tuple[tuple[Any, ...], tuple[tuple[int, ...], ...]]] = {
    "AlphaDropout": ((), ((3, 4),)),
    "ChannelShuffle": ((2,), (PICTURES,)),
    "CosineSimilarity": ((), ((3, 4), (3, 4))),
    "CrossMapLRN2d": ((3,), (PICTURES,)),
    "Dropout": ((), ((3, 4),)),
    "Dropout1d": ((), ((3, 4, 5),)),
    "Dropout2d": ((), (PICTURES,)),
    "Dropout3d": ((), ((2, 4, 3, 5, 6),)),
    "FeatureAlphaDropout": ((), (PICTURES,)),
    "Flatten": ((), (PICTURES,)),
    "Fold": (((4, 5), (2, 2)), ((2, 12, 12),)),
    "Hardsigmoid": ((), ((3, 4),)),
    "Identity": ((), ((3, 4),)),
    "LazyBatchNorm1d": ((), ((3, 4),)),
    "LazyBatchNorm2d": ((), (PICTURES,)),
    "LazyBatchNorm3d": ((), ((2, 4, 3, 5, 6),)),
    "LazyConv2d": ((3, 3), (PICTURES,)),
    "LazyLinear": ((3,), ((3, 4),)),
    "PairwiseDistance": ((), ((3, 4), (3, 4))),
    "PixelShuffle": ((2,), (PICTURES,)),
    "PixelUnshuffle": ((2,), (PICTURES,)),
    "RReLU": ((), ((3, 4),)),
    "SyncBatchNorm": ((4,), (PICTURES,)),
    "TripletMarginLoss": ((), ((3, 4), (3, 4), (3, 4))),
    "TripletMarginWithDistanceLoss": ((), ((3, 4), (3, 4), (3, 4))),
    "Unflatten": ((1, (2, 2)), ((3, 4),)),
    "Unfold": (((2, 3),), (PICTURES,)),
    "Upsample": ((None, 2), (PICTURES,)),
    "UpsamplingBilinear2d": ((None, 2), (PICTURES,)),
    "UpsamplingNearest2d": ((None, 2), (PICTURES,)),
}


def tested() -> dict[str, list[Any]]:
    """What torch tests of each module."""
    import torch
    from torch.testing._internal.common_modules import module_db  # torch keeps this list nowhere else

    found: dict[str, list[Any]] = {}
    for each in module_db:
        if not each.name.startswith("nn.quant") and ".quantized." not in each.name:
            torch.manual_seed(0)
            given = each.module_inputs_func(
                each, device="cpu", dtype=torch.float32, requires_grad=False, training=False
            )
            found[each.name] = [(each.module_cls, one) for one in given if one.forward_input is not None]
    return found


def cases(name: str) -> sweep.Cases:
    """Some of what torch tests, or what `OTHERS` says."""
    import torch

    if name in OTHERS:
        arguments, shapes = OTHERS[name]

        def make() -> tuple[Any, Any]:
            torch.manual_seed(0)
            return getattr(torch.nn, name)(*arguments), tuple(torch.rand(shape) for shape in shapes)

        yield "", _built(make)
        return
    given = tested()[name]
    step = max(1, len(given) / CASES)
    for number in range(min(CASES, len(given))):
        kind, one = given[int(number * step)]

        def make_tested(kind: Any = kind, one: Any = one) -> tuple[Any, Any]:
            torch.manual_seed(0)
            built = one.constructor_input
            model = kind(*built.args, **built.kwargs)
            fed = one.forward_input
            if not fed.kwargs:
                return model, fed.args
            return model, dict(inspect.signature(model.forward).bind(*fed.args, **fed.kwargs).arguments)

        yield one.desc or str(number), _built(make_tested)


def _built(make: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
    """A module that was called once, as those that are lazy have to be."""

    def made() -> tuple[Any, Any]:
        import torch

        model, sample = make()
        model.eval()
        with torch.no_grad():
            model(**sample) if isinstance(sample, dict) else model(*sample)
        return model, sample[0] if isinstance(sample, tuple) and len(sample) == 1 else sample

    return made


if __name__ == "__main__":
    sys.exit(sweep.main(__doc__ or "", [*tested(), *OTHERS], cases))

"""Where two models part: the first value inside of them that differs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nbcloud.models import onnxfile, steps
from nbcloud.models.exportable import Conversion, Exportable
from nbcloud.models.signature import Feeds
from nbcloud.models.verify.compare import difference


def first_wrong_step(conversion: Conversion, model: Exportable, feeds: Feeds, precision: str) -> str:
    """What `Conversion.steps` calls the first value that differs; empty where none does, or none is known.

    Both models are run once more, now with the values in between as outputs.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            if conversion.opened is not None:
                conversion = conversion.opened(Path(folder) / "opened.onnx")
            return _first_wrong(conversion, model, feeds, precision)
    except Exception:  # noqa: BLE001 - the finding itself is told; this only tells more of it
        return ""


def _first_wrong(conversion: Conversion, model: Exportable, feeds: Feeds, precision: str) -> str:
    names = list(conversion.steps)
    if not names:
        return ""
    import onnxruntime

    seen = onnxfile.with_outputs(onnxfile.load(conversion.path), names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Fused nodes would hide the values asked for.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        seen.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fed = steps.apply(conversion.preprocessing, feeds)
    given = {each.name: each.accept(fed[each.name]) for each in conversion.inputs}
    found = dict(zip(names, session.run(names, given), strict=True))
    for name, expected in model.intermediates(feeds, names):
        if difference(name, found[name], expected, precision).amount > 1:
            return conversion.steps[name]
    return ""

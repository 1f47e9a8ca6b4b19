"""Models of Keras' other backends: read again and written by TensorFlow's, in a process of its own.

Keras takes one backend for a process, and the exports of the others bake sizes in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbcloud import extras
from nbcloud.errors import ExportError
from nbcloud.models import onnxfile
from nbcloud.models.export.keras import arguments, graph
from nbcloud.models.signature import Signature, Tensor


def convert(
    model: Any,
    inputs: tuple[Tensor, ...],
    outputs: Sequence[str],
    path: Path,
    opset: int | None,
    backend: str,
) -> Any:
    """Write the model by TensorFlow; returns the ONNX model.

    Raises
    ------
    ExportError
        When it can't be read by another process, or can't become ONNX.
    """
    extras.check("tensorflow", f"to export Keras models of the backend {backend}")
    with tempfile.TemporaryDirectory(prefix="nbcloud-keras-") as folder:
        file = Path(folder) / "model.keras"
        asked = {**Signature(inputs, ()).to_json(), "outputs": list(outputs), "opset": opset}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.save(file)
        except Exception as error:
            raise graph.refused(error, [], []) from error
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(file), str(path), json.dumps(asked)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended"])[-1]
        raise ExportError(
            f"Keras' backend tensorflow can't export this model of the backend {backend}: {reason[:300]}",
            "Layers of your own can't be read there: export from a notebook with KERAS_BACKEND=tensorflow.",
        )
    return onnxfile.load(path)


def _main(file: str, path: str, asked: dict[str, Any]) -> None:
    from nbcloud.models.export.keras import files

    model = files.load(Path(file))
    inputs = Signature.from_json({"inputs": asked["inputs"], "outputs": []}).inputs
    functional = getattr(model, "_functional", None) or model
    found = arguments.Arguments(((arguments.placeholders(functional._inputs_struct),), {}), inputs)

    def call(*values: Any) -> list[Any]:
        args, _ = found.native(values)
        return [value for _, value in arguments.leaves(model(*args, training=False))]

    graph.convert(call, inputs, asked["outputs"], Path(path), asked["opset"])


if __name__ == "__main__":
    try:
        _main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
    except ExportError as error:
        sys.exit(error.message)

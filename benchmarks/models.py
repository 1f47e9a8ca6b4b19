"""What nbcloud adds to the exporters and to onnxruntime: exports and predictions beside the bare libraries.

    python -m benchmarks.models [--rounds 7] [--out FILE]

Both in turn, in one process for each framework. An export is timed without its verification, which has
no counterpart; a prediction's is of one row, and of many.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_FRAMEWORKS = ("scikit-learn", "torch", "keras")
_ONCE = 0.05
"""Seconds that one measurement of a prediction takes, about."""


def forest() -> tuple[Any, Any, Callable[[Path], Any]]:
    """A forest of 100 trees on digits."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    data, right = load_digits(return_X_y=True)
    data = data.astype("float32")
    model = RandomForestClassifier(random_state=0).fit(data, right)

    def bare(path: Path) -> None:
        made = to_onnx(model, data[:1], options={"zipmap": False})
        path.write_bytes(made.SerializeToString())

    return model, data, bare


def images() -> tuple[Any, Any, Callable[[Path], Any]]:
    """A residual network of torch, for small pictures."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return torch.relu(x + self.inner(x))

    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), *(Block(32) for _ in range(8)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()  # fmt: skip
    sample = torch.rand(16, 3, 32, 32)

    def bare(path: Path) -> None:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(model, (sample,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False)

    return model, sample, bare


def mobile() -> tuple[Any, Any, Callable[[Path], Any]]:
    """MobileNetV2 of Keras, with random weights."""
    import keras
    import tensorflow as tf
    import tf2onnx

    model = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=10)
    sample = np.random.default_rng(0).random((8, 96, 96, 3), dtype="float32")

    def bare(path: Path) -> None:
        signature = [tf.TensorSpec([None, 96, 96, 3], tf.float32)]
        function = tf.function(lambda x: model(x, training=False), input_signature=signature)
        tf2onnx.convert.from_function(function, signature, opset=18, output_path=str(path))

    return model, sample, bare


MODELS = dict(zip(_FRAMEWORKS, (forest, images, mobile), strict=True))


def measured(framework: str, rounds: int) -> dict[str, list[float]]:
    """Times of nbcloud over those of the bare library, of one framework, a ratio for each round."""
    from nbcloud.inference.predictor import Predictor
    from nbcloud.models.export import export

    warnings.simplefilter("ignore")
    model, sample, bare = MODELS[framework]()
    ratios: dict[str, list[float]] = {"export": [], "verification": [], "one row": [], "many rows": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(rounds + 1):
            seen: dict[str, float] = {}
            began = time.perf_counter()
            bare(folder / "bare.onnx")
            plain = time.perf_counter() - began
            began = time.perf_counter()
            export(
                model,
                sample,
                name="m",
                path=folder / "m.onnx",
                progress=lambda text, seen=seen: seen.setdefault(text.partition(":")[0], time.perf_counter()),
            )
            if number:  # the first one of each imports
                ratios["export"].append((seen["comparing"] - began) / plain)
                ratios["verification"].append((time.perf_counter() - seen["comparing"]) / plain)
        predictor = Predictor(folder / "m.onnx", threads=1)
        session = predictor.session
        names = [each.name for each in session.get_outputs()]
        given = session.get_inputs()[0].name
        rows = np.asarray(sample)
        for row, data in (("one row", rows[:1]), ("many rows", rows)):

            def alone(data: Any = data) -> Any:
                return session.run(names, {given: data})

            def ours(data: Any = data) -> Any:
                return predictor.predict(data)

            times = max(1, int(_ONCE / (_seconds(alone, 3) + 1e-9)))
            for _ in range(5 * rounds):
                plain = _seconds(alone, times)
                ratios[row].append(_seconds(ours, times) / plain)
    return ratios


def _seconds(what: Callable[[], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        what()
    return (time.perf_counter() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=_FRAMEWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measured(arguments.only, arguments.rounds)))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for framework in _FRAMEWORKS:  # each in a process of its own: TensorFlow and torch share no threads well
        command = [sys.executable, "-m", "benchmarks.models", "--rounds", str(arguments.rounds)]
        answer = subprocess.run(
            [*command, "--only", framework],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        found[framework] = json.loads(answer.stdout.splitlines()[-1])
        told = ", ".join(f"{row} {statistics.median(each):.2f}" for row, each in found[framework].items())
        print(f"{framework}: {told}")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

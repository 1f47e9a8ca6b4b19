"""Bundles on an aarch64 device that has numpy and onnxruntime alone answer as they do here."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbcloud
from nbcloud.models.bundle import keys
from tests.bundles import SAMPLE, make
from tests.devices.arm64 import Device

pytestmark = pytest.mark.device
KILLS = 5


def forest() -> tuple[Any, Any]:
    """Digits, scaled, by a forest; its answers are classes."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data, right = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0))
    return model.fit(data, right), data[:64]


def network() -> tuple[Any, Any]:
    """Small pictures, by a convolution of torch."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(8 * 13 * 13, 10),
    )  # fmt: skip
    return model.eval(), torch.rand(64, 1, 28, 28)


def texts() -> tuple[Any, Any]:
    """Words of any language, counted before the graph."""
    keras = pytest.importorskip("keras")
    tf = pytest.importorskip("tensorflow")
    said = np.array(
        ["gutes Wetter", "schlechtes Wetter", "très bien", "好 天气", "Gutes, Essen!"] * 4, object
    )
    words = keras.layers.TextVectorization(output_sequence_length=5)
    words.adapt(tf.constant(said.astype(str)))
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((), dtype="string"), words, layers.Embedding(50, 8), layers.GlobalAveragePooling1D(),
         layers.Dense(2, activation="softmax")]
    )  # fmt: skip
    return model, said


MODELS: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "a forest": (forest, ""),
    "a network": (network, ""),
    "a network in 8 bits": (network, "int8-static"),
    "texts": (texts, ""),
}


def answers(told: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)["answers"]
    return found


@pytest.mark.parametrize("which", MODELS)
def test_a_bundle_answers_there_as_here(arm64: Device, tmp_path: Path, which: str) -> None:
    build, form = MODELS[which]
    model, sample = build()
    data = np.asarray(sample)
    version = nbcloud.export(model, sample, "m", registry=str(tmp_path / "registry"))
    bundle, given = tmp_path / "m.nbundle", tmp_path / "x.json"
    if form:
        largest = version.path().stat().st_size // 2
        version.optimize("edge-arm64", data, only=[form], max_size=largest).bundle(bundle)
    else:
        version.bundle(bundle, data[:4])
    if data.dtype == object:
        given.write_text(json.dumps(data[:8].tolist()))
    else:
        given = tmp_path / "x.npy"
        np.save(given, data[:8])
    words = [str(bundle), "run", "--input", str(given), "--json"]
    here = answers(subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False))
    there = answers(arm64.run(*words))
    assert there.keys() == here.keys()
    for name, value in here.items():
        if name == "label":
            assert there[name] == value
        else:  # 8 bits are rounded by other instructions there
            largest = np.abs(value).max()
            np.testing.assert_allclose(there[name], value, atol=largest * (0.1 if form else 1e-4))
    verified = arm64.run(str(bundle), "verify")
    assert "is whole, not signed, and answers as it should" in verified.stdout, verified.stderr


def test_it_has_numpy_and_onnxruntime_alone(arm64: Device) -> None:
    code = (
        "import importlib.metadata as m, platform, sys\n"
        "print(platform.machine(), *sorted(d.metadata['Name'] for d in m.distributions()))"
    )
    assert arm64.run("-c", code).stdout.split() == ["aarch64", "numpy", "onnxruntime"]


def test_what_was_not_signed_by_who_is_trusted_is_refused_there(arm64: Device, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for name in ("mine", "other"):
        public, _ = keys.generate(tmp_path / f"{name}.pem")
        if name == "mine":
            shutil.copy(public, trusted)
    mine = make(tmp_path, "mine.nbundle", sign=tmp_path / "mine.pem")
    other = make(tmp_path, "other.nbundle", sign=tmp_path / "other.pem")
    runtime = {"PYTHONPATH": str(mine)}
    words = ["-m", "nbcloud.inference.edge", "verify", "--trusted", str(trusted)]
    assert "answers as it should" in arm64.run(*words, str(mine), **runtime).stdout
    refused = arm64.run(*words, str(other), **runtime)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "whom this device does not trust" in refused.stderr
    content = bytearray(mine.read_bytes())
    content[len(content) // 2] ^= 4
    spoilt = tmp_path / "spoilt.nbundle"
    spoilt.write_bytes(content)
    refused = arm64.run(*words, str(spoilt), **runtime)
    assert refused.returncode == 1
    assert refused.stderr.startswith("nbcloud: ")


def test_killed_in_an_update_it_still_has_a_model(arm64: Device, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first, second = (make(tmp_path, f"{seed}.nbundle", seed=seed, width=64) for seed in (1, 2))
    assert arm64.run(str(first), "store", "add", str(store), "--activate").returncode == 0
    np.save(tmp_path / "x.npy", SAMPLE)
    chance = random.Random(5)
    seen = set()
    for turn in range(KILLS):
        new = (second, first)[turn % 2]
        update = arm64.start(str(new), "store", "add", str(store), "--activate")
        try:
            update.wait(chance.uniform(0.2, 6))
        except subprocess.TimeoutExpired:
            os.killpg(update.pid, signal.SIGKILL)
        update.communicate()
        runtime = {"PYTHONPATH": str(first)}
        words = [
            "-m",
            "nbcloud.inference.edge",
            "run",
            str(store),
            "--input",
            str(tmp_path / "x.npy"),
            "--json",
        ]
        seen.add(json.dumps(answers(arm64.run(*words, **runtime))))
    assert 1 <= len(seen) <= 2

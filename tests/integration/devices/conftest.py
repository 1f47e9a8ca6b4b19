"""Devices, and bundles of a network, its forms in 8 bits, a pipeline of columns and one of texts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nbcloud.models import onnxfile
from nbcloud.models.bundle import keys
from nbcloud.models.bundle.build import bundle
from nbcloud.models.export import export
from nbcloud.models.metadata import KEY
from nbcloud.models.optimize import ways
from tests.integration.devices.emulator import Device, NotHere, device


@dataclass(frozen=True)
class Shipped:
    """A signed bundle, and a file of what it did not see before."""

    bundle: Path
    input: Path


@pytest.fixture(scope="session")
def devices() -> dict[str, Device]:
    """A Raspberry Pi 4, and a 5, whose processor multiplies integers of 8 bits in other instructions."""
    try:
        return {"pi4": device("cortex-a72"), "pi5": device("cortex-a76")}
    except NotHere as error:
        pytest.skip(f"no device of another architecture: {error}")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; the folder ``trusted`` beside it has the public one."""
    folder = tmp_path_factory.mktemp("keys")
    public, _ = keys.generate(folder / "release.pem")
    (folder / "trusted").mkdir()
    public.rename(folder / "trusted" / public.name)
    return folder / "release.pem"


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory, key: Path) -> dict[str, Shipped]:
    folder = tmp_path_factory.mktemp("shipped")
    return {**_network(folder, key), **_columns(folder, key), **_texts(folder, key)}


def _network(folder: Path, key: Path) -> dict[str, Shipped]:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 4, 10),
    ).eval()
    images = np.random.default_rng(0).uniform(size=(64, 1, 8, 8)).astype(np.float32)
    made = export(model, images[:4], name="digits", path=folder / "fp32.onnx")
    source = ways.Source(made.path, [{"input": images[at : at + 1]} for at in range(32)], signed=True)
    forms = {"fp32": made.path, "int8-static": folder / "int8.onnx", "int8-dynamic": folder / "dynamic.onnx"}
    np.save(folder / "images.npy", images[40:])
    found = {}
    for way, path in forms.items():
        if way != "fp32":
            ways.make(way, source, path)
            onnxfile.set_properties(path, {KEY: made.metadata.to_text()})
        bundle(path, folder / f"{way}.nbundle", golden=images[:4], sign=key, variant=way)
        found[way] = Shipped(folder / f"{way}.nbundle", folder / "images.npy")
    bundle(forms["int8-static"], folder / "ort.nbundle", golden=images[:4], sign=key, form="ort")
    return {**found, "ort": Shipped(folder / "ort.nbundle", folder / "images.npy")}


def _columns(folder: Path, key: Path) -> dict[str, Shipped]:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "length": random.normal(size=200),
            "width": random.normal(size=200),
            "place": random.choice(["Köln", "Łódź", "here"], size=200),
        }
    )
    right = np.where(frame["length"] + (frame["place"] == "Köln") > 0.5, "tall", "small")
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), ["length", "width"]), ("texts", OneHotEncoder(), ["place"])]
    )
    model = make_pipeline(columns, RandomForestClassifier(20, max_depth=6, random_state=0)).fit(frame, right)
    made = export(model, frame[:20], name="plants", path=folder / "columns.onnx")
    bundle(made.path, folder / "columns.nbundle", golden=frame[:8], sign=key)
    frame[100:].to_csv(folder / "columns.csv", index=False)
    return {"columns": Shipped(folder / "columns.nbundle", folder / "columns.csv")}


def _texts(folder: Path, key: Path) -> dict[str, Shipped]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = np.array(["good", "very good indeed", "bad", "really bad", "good and cheap", "bad and dear"] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, np.arange(24) % 6 > 1)
        made = export(model, texts[:6], name="opinions", path=folder / "texts.onnx")
    bundle(made.path, folder / "texts.nbundle", golden=texts[:6], sign=key)
    (folder / "texts.txt").write_text(
        "good\nvery bad\n\nunknown words\nGOOD, and: cheap!\n", encoding="utf-8"
    )
    return {"texts": Shipped(folder / "texts.nbundle", folder / "texts.txt")}

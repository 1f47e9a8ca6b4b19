"""What `nbcloud.export` asks of its arguments before it begins, and tells while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import nbcloud
from nbcloud.errors import UsageError
from nbcloud.models.registry import Registry

DATA = np.random.default_rng(0).normal(size=(40, 3))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LinearRegression:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NBCLOUD_REGISTRY", str(tmp_path / "registry"))
    return LinearRegression().fit(DATA, DATA.sum(axis=1))


def test_metrics_of_numpy_are_kept_as_numbers(model: LinearRegression) -> None:
    metrics = {"r2": np.float32(0.5), "epochs": np.int64(3), "loss": np.array(0.25)}
    nbcloud.export(model, DATA, "sums", metrics=metrics)
    assert Registry().get("sums").metadata.metrics == {"r2": 0.5, "epochs": 3.0, "loss": 0.25}


@pytest.mark.parametrize("value", ["0.9", float("nan"), None, [0.9, 0.8], np.ones(2)])
def test_a_metric_that_is_no_number_is_refused_before_the_export(model: LinearRegression, value: Any) -> None:
    with pytest.raises(UsageError, match="which is no finite number"):
        nbcloud.export(model, DATA, "sums", metrics={"accuracy": value})
    assert not (Path(Registry().root) / "sums").exists()

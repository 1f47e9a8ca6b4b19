"""Exports of scikit-learn's models."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nbcloud.models.export import Exported, Options, export

Run = Callable[..., Exported]
Fitted = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Export a model, with the options named."""

    def run(model: Any, sample: Any, **options: Any) -> Exported:
        return export(model, sample, name="m", path=tmp_path / "m.onnx", options=Options(**options))

    return run


@pytest.fixture
def fitted() -> Fitted:
    """Fit a model, whatever scikit-learn warns of."""

    def fitted(model: Any, *data: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(*data)

    return fitted


@pytest.fixture
def people() -> pd.DataFrame:
    """A table of several types, with what is missing."""
    import numpy as np

    random, rows = np.random.default_rng(0), 300
    return pd.DataFrame(
        {
            "age": random.integers(18, 90, rows),
            "income": np.where(np.arange(rows) % 7 == 0, np.nan, random.normal(5e4, 2e4, rows)),
            "home town": random.choice(["Köln", "北京", "Paris"], rows),
            "member": random.random(rows) > 0.5,
        }
    )

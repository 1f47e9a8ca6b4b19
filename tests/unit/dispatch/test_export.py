"""What `nbcloud.export` asks of its arguments before it begins, and tells while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

import nbcloud
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.models.registry import Registry
from nbcloud.runs.record import RunState

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


def test_an_export_belongs_to_the_run_around_it(model: LinearRegression) -> None:
    with nbcloud.start_run("fit"):
        nbcloud.export(model, DATA, "sums")
    nbcloud.export(model, DATA, "sums")
    nbcloud.flush()
    with open_store() as store:
        runs = {run.id: run.name for run in store.search()}
    assert [runs[version.entry.run] for version in Registry().versions("sums")] == ["fit", "export-sums"]


def test_an_export_that_goes_on_is_not_taken_for_lost(model: LinearRegression) -> None:
    def look(_: str) -> None:
        complete_records()
        with open_store() as store:
            states.add(store.search(name="export-sums")[0].state)

    states: set[RunState] = set()
    nbcloud.export(model, DATA, "sums", progress=look)
    assert states == {RunState.RUNNING}

"""Exports of torch modules, the same at each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbcloud.models.export import Exported, Options, export


@pytest.fixture(autouse=True)
def seeded() -> None:
    pytest.importorskip("torch").manual_seed(0)


@pytest.fixture
def run(tmp_path: Path):
    def run(model: Any, sample: Any, **options: Any) -> Exported:
        return export(model, sample, name="m", path=tmp_path / "m.onnx", options=Options(**options))

    return run

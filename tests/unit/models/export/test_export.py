"""What holds for every framework."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from nbcloud.models.export import Exported, export


def test_threads_may_export_at_once_and_leave_the_process_as_it_was(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((40, 4)).astype("float32")
    forest = RandomForestClassifier(3, random_state=0).fit(data, data[:, 0] > 0.5)
    models = [(forest, data), (torch.nn.Linear(4, 2), torch.tensor(data))] * 2
    filters, made = [*warnings.filters], GuardOnDataDependentSymNode.__init__

    def one(number: int) -> Exported:
        model, sample = models[number]
        return export(model, sample, name="m", path=tmp_path / f"{number}.onnx")

    with ThreadPoolExecutor(len(models)) as threads:
        found = [*threads.map(one, range(len(models)))]
    assert [each.metadata.framework for each in found] == ["scikit-learn", "torch"] * 2
    assert all(each.report.worst <= 1 for each in found)
    assert [*warnings.filters] == filters
    assert GuardOnDataDependentSymNode.__init__ is made

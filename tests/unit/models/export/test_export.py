"""What holds for every framework."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from nbcloud.errors import UsageError
from nbcloud.models.export import Exported, Options, export

DATA = np.random.default_rng(0).random((40, 4)).astype("float32")


def test_threads_may_export_at_once_and_leave_the_process_as_it_was(tmp_path: Path) -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(DATA, DATA[:, 0] > 0.5)
    models = [(forest, DATA), (torch.nn.Linear(4, 2), torch.tensor(DATA))] * 2
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


def test_a_second_export_of_a_process_tells_that_it_waits(tmp_path: Path) -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(DATA, DATA[:, 0] > 0.5)
    waits, told = threading.Event(), []

    def first(phase: str) -> None:
        if phase.startswith("converting"):
            second.start()
            assert waits.wait(60)

    def tell(phase: str) -> None:
        told.append(phase)
        waits.set()

    def other() -> None:
        export(forest, DATA, name="m", path=tmp_path / "b.onnx", progress=tell)

    second = threading.Thread(target=other)
    export(forest, DATA, name="m", path=tmp_path / "a.onnx", progress=first)
    second.join(60)
    assert told[:2] == ["waiting for another export of this process", "reading the model"]
    assert (tmp_path / "b.onnx").exists()


def test_labels_of_another_count_are_refused_and_those_of_numpy_are_kept_as_text(tmp_path: Path) -> None:
    model, names = torch.nn.Linear(4, 2), np.array(["ham", "spam"])
    made = export(model, DATA, name="m", path=tmp_path / "m.onnx", options=Options(labels=names))
    assert made.metadata.from_text(made.metadata.to_text()).signature.outputs[0].labels == ("ham", "spam")
    for model in (torch.nn.Linear(4, 2), tmp_path / "m.onnx"):
        with pytest.raises(UsageError, match="3 labels were given, and no output has as many places"):
            export(model, DATA, name="m", path=tmp_path / "o.onnx", options=Options(labels=[1, 2, 3]))


@pytest.mark.parametrize("dynamic", [{"Y": {0: "rows"}}, {"X": {1: "columns"}}, False])
def test_a_scikit_learn_model_varies_in_its_rows_only(tmp_path: Path, dynamic: dict | bool) -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(DATA, DATA[:, 0] > 0.5)
    options = Options(dynamic=dynamic)
    with pytest.raises(UsageError, match=r"the rows vary, and nothing else.* X: float64\[batch, 4\]"):
        export(forest, DATA, name="m", path=tmp_path / "m.onnx", options=options)


@pytest.mark.parametrize("dynamic", [{"X": [0]}, {"X": {0: 5}}, {"X": {"batch": 0}}])
def test_dimensions_that_vary_are_named(dynamic: dict) -> None:
    with pytest.raises(UsageError, match="does not name the dimensions that vary"):
        Options(dynamic=dynamic)

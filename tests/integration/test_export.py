"""From a model that was trained in a ``%%cloud`` cell to a version in the registry, and back to predictions."""

from __future__ import annotations

import json

import pytest

from nbcloud import cli
from nbcloud.config import settings
from nbcloud.models.registry import Registry
from tests.integration.notebooks import RunningNotebook

TRAIN = """%%cloud
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
X, y = load_digits(return_X_y=True)
model = RandomForestClassifier(100, random_state=0).fit(X, y)
sample = X[:40]
"""


def test_a_handle_is_exported_where_it_lives(
    notebook: RunningNotebook, capsys: pytest.CaptureFixture[str]
) -> None:
    assert notebook.run(TRAIN).error == ""
    assert "stays on" in notebook.run("model").result
    shown = notebook.run(
        "import nbcloud\nversion = nbcloud.export(model, sample, 'digits', metrics={'accuracy': 0.9})\nversion"
    )
    assert shown.error == "", shown.traceback
    assert "models:/digits/1: scikit-learn" in shown.result
    assert notebook.run("[name for name in globals() if name.startswith('_nbcloud')]").result == "[]"
    version = Registry().get("digits/1")
    assert version.metadata.metrics == {"accuracy": 0.9}
    notebook.run("%cloud runs")
    assert cli.main(["runs", "--json"]) == 0
    runs = {run["name"]: run for run in json.loads(capsys.readouterr().out)}
    assert runs["export-digits"]["state"] == runs["export-digits-there"]["state"] == "done"
    assert (runs["export-digits"]["kind"], runs["export-digits"]["tags"]["model"]) == (
        "export",
        "models:/digits/1",
    )
    trained = next(run for run in runs.values() if run["id"] == version.entry.run)
    assert "RandomForestClassifier(100" in trained["code"], "the run that left the handle"
    assert version.metadata.run == trained["id"]
    answer = notebook.run("nbcloud.load('models:/digits').predict(sample)['label'][:5].tolist()").result
    assert answer == "[0, 1, 2, 3, 4]"


def test_the_magic_exports_by_names_and_says_how_it_was_verified(notebook: RunningNotebook) -> None:
    here = TRAIN.removeprefix("%%cloud\n")
    assert notebook.run(here).error == ""
    shown = notebook.run("%cloud export model sample forest --metric accuracy=0.97 --alias champion")
    assert "models:/forest/1: verified on " in str(shown.messages[-1]["content"]), shown.traceback
    assert Registry().get("forest@champion").metadata.metrics == {"accuracy": 0.97}
    assert "Did you mean sample?" in notebook.run("%cloud export model sampel forest").traceback
    assert "it must be a number" in notebook.run("%cloud export model sample forest --metric a=b").traceback
    assert "can't be the name of a model" in notebook.run("%cloud export model sample a/b").traceback
    assert "nbcloud can't export a builtins.int" in notebook.run("x = 1\n%cloud export x sample f").traceback
    assert (
        "is not trained"
        in notebook.run("from sklearn.svm import SVC\nraw = SVC()\n%cloud export raw sample f").traceback
    )


WRONG = """%%cloud
import torch
class Turns(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.padding = torch.nn.Linear(1000, 1000)
    def forward(self, x):
        return x * (1 if torch.compiler.is_exporting() or torch.jit.is_tracing() else -1)
model, sample = Turns(), torch.rand(8, 3)
"""


def test_what_a_failed_comparison_saw_comes_home(notebook: RunningNotebook) -> None:
    assert notebook.run(WRONG).error == ""
    shown = notebook.run("import nbcloud\nnbcloud.export(model, sample, 'turns')")
    assert "The ONNX model does not answer as the model does" in shown.traceback
    assert len(shown.traceback.splitlines()) == 2, "the line of the cell, and the sentence"
    assert Registry().names() == []
    kept = next((settings().data_dir / "evidence").iterdir())
    assert (
        f"nbcloud: What the comparison saw, inputs, both answers and the model, is in {kept}" in shown.notes
    )
    assert {"inputs.npz", "onnx.npz", "framework.npz", "model.onnx"} <= {each.name for each in kept.iterdir()}


def test_an_export_that_fails_where_the_model_lives_says_why(notebook: RunningNotebook) -> None:
    made = "%%cloud\nmodel = {'weights': bytes(2 * 2**20)}\nsample = [1]"
    assert notebook.run(made).error == ""
    shown = notebook.run("import nbcloud\nnbcloud.export(model, sample, 'x')")
    assert "nbcloud can't export a builtins.dict" in shown.traceback
    assert Registry().names() == []

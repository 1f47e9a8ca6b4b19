"""PyTorch across the border: a model and its optimiser stay one, and nothing is imported unasked."""

from __future__ import annotations

import pytest

from tests.integration.notebooks import RunningNotebook

pytest.importorskip("torch", reason="make test installs it; by hand: pip install torch")

TRAIN = """
inputs = torch.arange(20, dtype=torch.float32).reshape(-1, 1) / 20
targets = 3 * inputs + 1
for step in range(STEPS):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
"""
BUILD = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
"""


def test_a_model_built_here_is_trained_there_and_here_again(notebook: RunningNotebook) -> None:
    notebook.run(BUILD)
    expected = notebook.run(
        "import copy\nmodel_, optimizer_ = model, optimizer\nmodel, optimizer = copy.deepcopy((model, optimizer))\n"
        + TRAIN.replace("STEPS", "60")
        + "expected = [p.item() for p in model.parameters()]\nmodel, optimizer = model_, optimizer_\n"
        "del model_, optimizer_, loss, inputs, targets\nexpected"
    ).result
    assert notebook.run("%%cloud" + TRAIN.replace("STEPS", "20")).error == ""
    assert notebook.run(TRAIN.replace("STEPS", "20")).error == ""
    assert notebook.run("%%cloud" + TRAIN.replace("STEPS", "20")).error == ""
    shown = notebook.run(
        "import numpy as np\nbool(np.allclose([p.item() for p in model.parameters()], expected))"
    )
    assert shown.result == "True", f"trained in turns here and there, it must be the same model as {expected}"


def test_torch_is_not_imported_here_because_a_cell_imported_it_there(notebook: RunningNotebook) -> None:
    notebook.run("%%cloud" + BUILD + "tensor = torch.ones(3)")
    assert notebook.run("import sys; 'torch' in sys.modules").result == "False"
    assert "stays on session" in notebook.run("tensor").result
    assert notebook.run("%%cloud\ntensor.sum().item()").result == "3.0"
    assert notebook.run("tensor.get().tolist()").result == "[1.0, 1.0, 1.0]"
    assert notebook.run("torch.zeros(1).item()").result == "0.0", (
        "the name is bound to the module, imported when used"
    )

"""Notebooks whose session is gone go on behind their last checkpoint, and come to what an unbroken run does."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

import nbcloud
from nbcloud.dispatch.links import close_links
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RunLost
from nbcloud.runs.record import RunState
from nbcloud.workflows.notebook.outcome import Stage, outcome
from nbcloud.workflows.notebook.run import run_notebook
from tests.integration.files import wait_for_output, write

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
]

FIRST = """
import math, os, random
import numpy as np
import nbcloud

random.seed(1)
np.random.seed(2)

class Walker:
    def __init__(self):
        self.place = 0.0

    def step(self):
        self.place += draw()

def draw():
    return math.floor(1000 * (random.random() + np.random.rand()))

walker = Walker()
both = [walker, {"same": walker}]
nbcloud.log_metric("early", 1.0)
with open("ran.txt", "a") as file:
    print("first", file=file)
del file
"""
SECOND = "walker.step()\nnbcloud.log_metric('walked', walker.place)\nprint(walker.place)"
LAST = """
import inspect
both[1]["same"].step()
print(walker.place, both[0] is walker, inspect.getsource(Walker.step))
"""
SLOW = "import time\nfor number in range(40):\n    print(number, flush=True)\n    time.sleep(0.1)"
DIE = """
import pathlib, signal
if pathlib.Path("die").exists():
    os.unlink("die")
    os.kill(os.getpid(), signal.SIGKILL)
"""


shared = pytest.mark.usefixtures("local_cluster")


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


def texts(path: Path) -> list[str]:
    return ["".join(each.get("text", "") for each in cell.outputs) for cell in nbformat.read(path, 4).cells]


def kept(path: Path) -> list[Path]:
    """The checkpoint files of a notebook."""
    with open_store() as store:
        return list(store.files(outcome(path).run).directory.glob("checkpoint-*"))


def lost(source: Path, output: Path) -> None:
    """Run a notebook whose kernel dies."""
    Path("die").touch()
    with pytest.raises(RunLost):
        run_notebook(str(source), str(output), progress_bar=False)
    assert outcome(output).stage is Stage.LOST


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the notebooks run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@shared
def test_a_lost_kernel_is_made_again_behind_the_checkpoint(folder: Path):
    source = write(folder / "in.ipynb", FIRST, (SECOND, "checkpoint"), DIE, LAST)
    unbroken, output = folder / "unbroken.ipynb", folder / "out.ipynb"
    run_notebook(str(source), str(unbroken), progress_bar=False)
    lost(source, output)
    record = outcome(output).run
    (file,) = kept(output)
    assert file.stat().st_mode & 0o777 == 0o600
    end = run_notebook(str(source), str(output), resume=True, progress_bar=False)
    assert (end.stage, end.run) == (Stage.DONE, record)
    assert texts(output) == texts(unbroken)
    assert Path("ran.txt").read_text().count("first") == 2  # once for each notebook
    counts = [cell.execution_count for cell in nbformat.read(output, 4).cells]
    assert counts == [1, 2, 3, 4]
    with open_store() as store:
        metrics = [store.tracked([each])[each].metrics for each in (record, outcome(unbroken).run)]
    assert metrics[0] == metrics[1] == {"early": 1.0, "walked": pytest.approx(metrics[0]["walked"])}
    assert kept(output) == kept(unbroken) == []
    assert not {"checkpoint", "restored"} & nbformat.read(output, 4).metadata.papermill.keys()


@shared
def test_a_damaged_checkpoint_is_refused(folder: Path, caplog: pytest.LogCaptureFixture):
    source = write(folder / "in.ipynb", FIRST, (SECOND, "checkpoint"), DIE, LAST)
    lost(source, folder / "out.ipynb")
    (file,) = kept(folder / "out.ipynb")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        end = run_notebook(str(source), str(folder / "out.ipynb"), resume=True, progress_bar=False)
    assert end.stage is Stage.DONE
    assert "The notebook's checkpoint is damaged" in caplog.text
    assert Path("ran.txt").read_text().count("first") == 2


@shared
@pytest.mark.parametrize(
    ("last", "again"), [("print(n)", 1), ("print(n, log.closed)", 2), ("print(n, say)", 2)]
)
def test_what_can_not_be_kept_is_named(folder: Path, caplog: pytest.LogCaptureFixture, last: str, again: int):
    first = FIRST + "n = 5\nlog = open('log.txt', 'w')\nsay = (each for each in [])"
    source = write(folder / "in.ipynb", first, ("n += 1", "checkpoint"), DIE, last)
    with caplog.at_level(logging.WARNING):
        lost(source, folder / "out.ipynb")
    if again == 1:  # nobody reads them any more
        assert "can't be kept" not in caplog.text
    else:
        assert "was not made: later cells read what can't be kept" in caplog.text
        assert ("log (log can't be pickled: it is an open file)" in caplog.text) == ("log" in last)
    run_notebook(str(source), str(folder / "out.ipynb"), resume=True, progress_bar=False)
    assert texts(folder / "out.ipynb")[-1].startswith("6")
    assert Path("ran.txt").read_text().count("first") == again


def begun(source: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nbcloud", "run", str(source), str(output), "--resume", "--no-progress"]
    return subprocess.Popen(command, start_new_session=True, env=os.environ.copy())


@pytest.mark.usefixtures("own_cluster")
def test_the_worker_is_killed_and_then_the_client_that_went_on(folder: Path):
    first = FIRST + "Path = __import__('pathlib').Path\nPath('worker').write_text(str(os.getppid()))"
    source = write(folder / "in.ipynb", first, (SECOND, "checkpoint"), SLOW, LAST)
    output = folder / "out.ipynb"
    client = begun(source, output)
    wait_for_output(output, '"5\\n"')
    record = outcome(output).run
    os.kill(int(Path("worker").read_text()), signal.SIGKILL)
    assert client.wait(60) != 0
    assert outcome(output).stage is Stage.LOST
    client = begun(source, output)
    deadline = time.monotonic() + 60
    while outcome(output).stage is Stage.LOST:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    wait_for_output(output, '"5\\n"')
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    # The kernel that was made from the checkpoint is there, and has gone on.
    end = run_notebook(str(source), str(output), resume=True, progress_bar=False)
    assert (end.stage, end.run) == (Stage.DONE, record)
    assert texts(output)[2] == "".join(f"{number}\n" for number in range(40))
    assert Path("ran.txt").read_text() == "first\n"
    with open_store() as store:
        assert store.tracked([record])[record].metrics.keys() == {"early", "walked"}
        assert store.text(record).endswith(texts(output)[2] + texts(output)[3])


@shared
def test_what_was_logged_before_an_interrupt_is_logged_behind_the_checkpoint_too(folder: Path):
    parameters = ("speed = 3", "parameters")
    source = write(folder / "in.ipynb", parameters, FIRST, (SECOND, "checkpoint"), SLOW, LAST)
    output = folder / "out.ipynb"
    client = begun(source, output)
    wait_for_output(output, '"5\\n"')
    stopped = outcome(output).run
    client.send_signal(signal.SIGINT)
    assert client.wait(60) == 130
    end = run_notebook(str(source), str(output), resume=True, progress_bar=False)
    assert end.stage is Stage.DONE
    assert Path("ran.txt").read_text() == "first\n"
    with open_store() as store:
        assert store.get(stopped).state is RunState.CANCELLED
        before, after = (store.tracked([each])[each] for each in (stopped, end.run))
    assert after.metrics == before.metrics
    assert after.metrics.keys() == {"early", "walked"}


TORCH = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters())

def train(steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
"""


@shared
def test_a_model_is_trained_on_as_if_nothing_had_happened(folder: Path):
    pytest.importorskip("torch")
    weights = "print([each.tolist() for each in model.parameters()])"
    die = f"import os\n{DIE}"
    source = write(folder / "in.ipynb", TORCH, ("train(5)", "checkpoint"), die, f"train(5)\n{weights}")
    run_notebook(str(source), str(folder / "unbroken.ipynb"), progress_bar=False)
    lost(source, folder / "out.ipynb")
    run_notebook(str(source), str(folder / "out.ipynb"), resume=True, progress_bar=False)
    assert texts(folder / "out.ipynb")[3] == texts(folder / "unbroken.ipynb")[3] != ""


@shared
def test_a_member_of_a_sweep_that_is_lost_is_tried_again_behind_its_checkpoint(folder: Path):
    source = write(folder / "in.ipynb", ("a = 0", "parameters"), FIRST, (SECOND, "checkpoint"), DIE, LAST)
    Path("die").touch()
    results = nbcloud.sweep(source, {"a": [1]}, "sweeps", retries=1, cwd=folder)
    assert [row["state"] for row in results.rows] == ["done"]
    assert Path("ran.txt").read_text() == "first\n"

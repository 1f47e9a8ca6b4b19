"""``nbcloud demo``, as a user sees it: a process, what it prints, what it leaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from nbcloud.cli import main
from nbcloud.clusters import registry
from nbcloud.runs.store import Store
from tests.conftest import NBCLOUD

COMMAND = [sys.executable, "-c", NBCLOUD, "demo"]


def processes_of(runtime: Path) -> list[psutil.Process]:
    """Processes that were started with this registry: demonstration, kernel, cluster, sessions."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("NBCLOUD_RUNTIME_DIR") == str(runtime) and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def demo(nbcloud_dirs: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start the demonstration, its temporary files inside ``tmp_path``."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "100"}

    def start() -> subprocess.Popen[str]:
        options: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        options |= {"env": environment, "cwd": tmp_path, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(COMMAND, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for process in processes_of(nbcloud_dirs):
        process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    assert process.stderr is not None
    pytest.fail(f"ended without {text!r}: {read}{process.stderr.read()}")


def folders(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("nbcloud-demo-*"))


def test_it_tells_the_story(
    demo: Callable[[], subprocess.Popen[str]], tmp_path: Path, nbcloud_dirs: Path
) -> None:
    process = demo()
    told, said = process.communicate(timeout=150)
    assert process.returncode == 0, told + said
    assert said == ""
    assert "1,347 images to learn from, 450 to be tested on" in told
    assert re.search(r"epoch 30: loss 0\.\d{3}, test accuracy 9\d\.\d%", told)
    assert re.search(r"MLPClassifier: (9\d\.\d\d%) there, \1 here", told)
    assert "\nZeroDivisionError: division by zero\n" in told
    assert re.search(r"\[12\] SVC with C=100: accuracy 9\d\.\d%", told)

    (folder,) = folders(tmp_path)
    (figure,) = folder.glob("*.png")
    assert str(figure) in told
    assert figure.read_bytes().startswith(b"\x89PNG")
    executed = nbformat.read(folder / "01-cloud-cell.ipynb", as_version=4)
    nbformat.validate(executed)
    assert str(folder / "01-cloud-cell.ipynb") in told
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    assert outputs["train"][0].text.startswith("epoch  3: loss ")
    assert outputs["error"][0].ename == "ZeroDivisionError"
    assert (
        "SVC with C=100" in outputs["search"][-1].text
    )  # what a run in the background prints lands in its cell

    # What it says to type next works: the record outlives the cluster.
    training = re.search(r"nbcloud logs (r\w+)", told)
    assert training is not None
    with Store() as store:
        assert store.get(training[1]).name == "digits"
        assert store.text(training[1]).startswith("epoch  3: loss ")
    assert registry.entries() == []
    assert processes_of(nbcloud_dirs) == []
    assert list(tmp_path.glob("nbc-*")) == []


@pytest.mark.parametrize("moment", ["In [2]: %cloud up", "epoch  6"], ids=["starting", "training"])
def test_ctrl_c_leaves_nothing(
    moment: str, demo: Callable[[], subprocess.Popen[str]], tmp_path: Path, nbcloud_dirs: Path
) -> None:
    process = demo()
    read_until(process, moment)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "nbcloud: The demonstration's cluster and kernel have ended.\nnbcloud: Interrupted.\n"
    assert registry.entries() == []
    assert processes_of(nbcloud_dirs) == []
    assert folders(tmp_path) == []


def test_a_reader_that_has_seen_enough(
    demo: Callable[[], subprocess.Popen[str]], tmp_path: Path, nbcloud_dirs: Path
) -> None:
    process = demo()
    read_until(process, "In [2]: %cloud up")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert registry.entries() == []
    assert processes_of(nbcloud_dirs) == []


def test_one_at_a_time(demo: Callable[[], subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]) -> None:
    process = demo()
    read_until(process, "In [3]: ")
    assert main(["demo"]) == 1
    assert "nbcloud down demo" in capsys.readouterr().err
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.parametrize("package", ["sklearn", "matplotlib"])
def test_a_missing_extra_names_the_command(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"nbcloud: {package} is needed")
    assert 'pip install "nbcloud[sklearn]"' in said

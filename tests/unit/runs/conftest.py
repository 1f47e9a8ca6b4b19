import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbcloud.errors
from nbcloud.runs.store import Store
from tests.unit.runs.mlflow_server import VARIABLE, end_mirrors, mlflow_server

ROOT = Path(nbcloud.errors.__file__).parents[1]


def _line(number, text, name="stdout"):
    return message_line(number, "stream", {"name": name, "text": text})


def message_line(number, msg_type, content):
    message = {"n": number, "time": 1.5, "msg_type": msg_type, "content": content, "metadata": {}}
    return json.dumps(message).encode() + b"\n"


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def line():
    """A stream message as a line of the log."""
    return _line


@pytest.fixture
def message():
    """Any message as a line of the log."""
    return message_line


@pytest.fixture
def start_python():
    """Start a Python program that can import nbcloud; whatever is left of it at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(program, *arguments, **options):
            env = os.environ | {"PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, env=env, **options))
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def small_disk(tmp_path):
    """A disk of some 2 MiB, and a function that mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2200k", "nbcloud-test", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a disk")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield folder, remount
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def mlflow_address(tmp_path_factory):
    """A server of MLflow, for all tests of a file."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(params=["folder", "server"])
def mlflow_place(request, tmp_path, nbcloud_dirs, monkeypatch):
    """What MLflow keeps its runs in: a folder, and a server where there is one; the test runs beside it."""
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    if request.param == "server" and VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no Python that has a whole MLflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    yield request.getfixturevalue("mlflow_address") if request.param == "server" else str(tmp_path / "mlruns")
    end_mirrors(tmp_path / "data")

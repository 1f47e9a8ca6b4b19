import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbcloud.errors
from nbcloud.runs.store import Store

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

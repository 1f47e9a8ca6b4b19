"""A real server of MLflow, where NBCLOUD_TEST_MLFLOW names the Python of an environment that has one."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

VARIABLE = "NBCLOUD_TEST_MLFLOW"
_START_SECONDS = 90.0


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of a server that keeps its runs in SQLite below a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (
        f"server --host 127.0.0.1 --port {port} --workers 1 --backend-store-uri sqlite:///{folder}/mlflow.db"
    )
    words += f" --artifacts-destination {folder}/artifacts"
    command = [os.environ[VARIABLE], "-m", "mlflow", *words.split()]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        ) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(address):
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.1)
            yield address
        finally:
            os.killpg(server.pid, 9)


def end_mirrors(data: Path) -> None:
    """End the processes that mirror the runs of a store, which would stay a while."""
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("NBCLOUD_DATA_DIR") == str(data)
            if ours and any("nbcloud.runs.mirror.process" in word for word in process.cmdline()):
                process.kill()
        except psutil.Error:
            continue


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False

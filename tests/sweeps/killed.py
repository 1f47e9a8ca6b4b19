"""A sweep of 500 members whose client, worker and scheduler are killed, and which is gone on with each time.

    python -m tests.sweeps.killed [MEMBERS]

It must run where no cluster of yours is up, best with a HOME of its own. Exits with 1 unless every member stands
once in the table, with a record of its own and the value that its parameter gives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil

from nbcloud.clusters import registry
from nbcloud.clusters.connect import status
from nbcloud.workflows.sweep.folder import Sweep
from nbcloud.workflows.sweep.results import Results

CODE = "import nbcloud, os, time\nnbcloud.log_metric('double', 2 * seed)\ntime.sleep(0.1)"
_PATIENCE = 900.0


def main(count: int) -> int:
    """Run it; returns the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="nbcloud-killed-"))
    out = folder / "out"
    cells = [
        nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CODE),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "in.ipynb"
    )
    words = [str(folder / "in.ipynb"), "-g", f"seed=0:{count}", "-o", str(out)]
    began = time.monotonic()
    kills: list[tuple[str, Callable[[subprocess.Popen[bytes]], None]]] = [
        ("client", lambda client: os.killpg(client.pid, signal.SIGKILL)),
        ("worker", lambda _: os.kill(_worker(), signal.SIGKILL)),
        ("scheduler", lambda _: os.kill(_scheduler(), signal.SIGKILL)),
    ]
    for place, (what, kill) in enumerate(kills, 1):
        client = _started(words)
        _wait(lambda wanted=place * count // 5: _ended(out) >= wanted, client)
        kill(client)
        print(f"{what} killed when {_ended(out)} of {count} had ended", flush=True)
        # What a kill leaves running goes on for a moment; then the client is ended, too.
        more = _ended(out) + count // 20
        _wait(lambda wanted=more: _ended(out) >= wanted, client)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)
        print(f"  the client ended with {client.wait(_PATIENCE)} when {_ended(out)} had ended", flush=True)
        words = ["-o", str(out), "--resume"]
    code = _started(words).wait(_PATIENCE)
    rows = Results(Sweep.open(out)).rows
    right = [row["double"] == 2 * row["seed"] and row["state"] == "done" for row in rows]
    once = len({row["run"] for row in rows}) == len(rows) == count == len({row["seed"] for row in rows})
    print(
        f"exit code {code}; {sum(right)} of {len(rows)} right, each once: {once}; {time.monotonic() - began:.0f} s"
    )
    subprocess.run([sys.executable, "-m", "nbcloud", "down"], check=False)
    return 0 if all(right) and once and code == 0 else 1


def _started(words: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nbcloud", "sweep", *words]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def _ended(out: Path) -> int:
    if not (out / "sweep.json").exists():
        return 0
    sweep = Sweep.open(out)
    return len(sweep.members) - len(sweep.left())


def _wait(condition: Callable[[], bool], client: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if client.poll() is not None:
            return
        if time.monotonic() > deadline:
            sys.exit("the sweep came to nothing")
        time.sleep(0.3)


def _scheduler() -> int:
    return registry.entries()[0].pid


def _worker() -> int:
    address = status(registry.entries()[0])["workers"][0]["address"]
    port = int(address.rpartition(":")[2])
    return next(
        each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))

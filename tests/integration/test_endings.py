"""A session that is closed while it runs nothing ends as a notebook's kernel does: what was left for then is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kernels import Worker, with_worker
from tests.integration.notebooks import RunningNotebook

LEFT = """
import atexit, pathlib, threading, time, weakref
left = pathlib.Path({folder!r})
atexit.register((left / "at exit").touch)
file = open(left / "unflushed", "w")
file.write("text")
class Kept:
    def __del__(self, left=left):
        (left / self.name).touch()
kept, cycle, final = Kept(), Kept(), Kept.__new__(Kept)
kept.name, cycle.name, final.name = "deleted", "in a cycle", "again"
cycle.self = cycle
weakref.finalize(final, (left / "finalized").touch)
def work():
    time.sleep(0.3)
    (left / "thread").touch()
threading.Thread(target=work).start()
"""
DONE = {"at exit", "unflushed", "deleted", "in a cycle", "again", "finalized", "thread"}


@pytest.mark.parametrize("how", ["cold", "forked"])
def test_all_that_was_left_for_the_end_is_done(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "left"
    folder.mkdir()

    async def scenario(worker: Worker) -> None:
        kernel = await (worker.kernel() if how == "cold" else worker.forked(worker.template()))
        await kernel.text(LEFT.format(folder=str(folder)))
        kernel.process.shut_down()
        assert await kernel.end() == 0

    with_worker(tmp_path, scenario)
    assert {path.name for path in folder.iterdir()} == DONE
    assert (folder / "unflushed").read_text() == "text"


def test_what_a_kernel_started_ends_with_it(tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    async def scenario(worker: Worker) -> None:
        import psutil

        kernel = await worker.forked(worker.template())
        start = "import subprocess as s; print(s.Popen(['sleep', '600']).pid)"
        pid = int(await kernel.text(start))
        assert psutil.pid_exists(pid)
        kernel.process.shut_down()
        assert await kernel.end() == 0
        while psutil.pid_exists(pid):
            await asyncio.sleep(0.01)

    with_worker(tmp_path, scenario)


def test_a_session_that_is_reset_does_what_was_left_for_its_end(
    notebook: RunningNotebook, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    notebook.run(f"%%cloud -s ending\n{LEFT.format(folder=str(tmp_path))}")
    notebook.run("%cloud reset ending")
    wait_until(lambda: {path.name for path in tmp_path.iterdir()} >= DONE)

"""Interrupts, timeouts and amounts end what goes too far, and nothing beside it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil

from tests.integration.notebooks import RunningNotebook, Shown, pids, running_notebook, works


def test_a_timeout_interrupts_and_says_so(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud --timeout 0.5s\nimport time\nkept = 1\nprint('begun')\ntime.sleep(60)")
    assert (shown.text(), shown.error) == ("begun\n", "RunTimeout")
    assert "timeout of 0.5 s" in shown.traceback
    assert "KeyboardInterrupt" in str(shown.messages), "where it was interrupted is shown"
    assert notebook.run("%%cloud\nkept").result == "1", "the session goes on"


def test_a_run_that_ignores_its_timeout_is_killed(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud --timeout 0.5s\nimport time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass"
    )
    assert shown.error == "RunTimeout"
    assert "did not stop when interrupted" in shown.traceback
    works(notebook)


def test_memory_past_what_was_asked_for_ends_the_kernel(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud --fresh --memory 400MiB\nprint('begun', flush=True)\nheap = b'x' * 2**30\nimport time; time.sleep(30)"
    )
    assert (shown.text(), shown.error) == ("begun\n", "RunLost")
    assert "--memory" in shown.traceback
    works(notebook)


def test_what_can_never_fit_is_refused_at_once(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud --fresh --cpus 4096\n1")
    assert shown.error == "SessionError"
    assert "4096 CPUs" in shown.traceback


def test_interrupts_at_any_moment_leave_no_run_without_an_end(notebook: RunningNotebook) -> None:
    _, kernel = pids(notebook)
    ends = set()
    for attempt in range(40):
        delay = 0.001 * attempt
        timer = threading.Timer(delay, os.kill, (kernel, signal.SIGINT))
        timer.start()
        shown = notebook.run(f"%%cloud\nz = {attempt}\nprint(z)", limit=90)
        timer.join()
        ends.add(shown.error)
        assert shown.error in {"", "KeyboardInterrupt"}, shown.traceback
    assert "" in ends
    works(notebook)


def test_a_child_that_never_stops_writing_stops_nobody_else(own_notebook: RunningNotebook) -> None:
    worker, _ = pids(own_notebook)
    cell = own_notebook.run("%%cloud\nimport subprocess\nchild = subprocess.Popen(['yes'])")
    # What comes before the cell's end is its own, for a notebook.
    shown = cell.text() + Shown(own_notebook.stray).text()
    deadline = time.monotonic() + 60
    while "no longer shown" not in shown and time.monotonic() < deadline:
        message = own_notebook.client.get_iopub_msg(timeout=60)
        shown += message["content"].get("text", "")
    assert "no longer shown" in shown, f"{len(shown)} characters, ending with {shown[-100:]!r}"
    assert own_notebook.run("%%cloud\n20 + 1", limit=90).result == "21"
    assert psutil.Process(worker).memory_info().rss < 2**30
    assert not own_notebook.run("%%cloud\nchild.kill()").error


def test_an_interrupt_while_a_cluster_starts_is_one_sentence(nbcloud_dirs: Path) -> None:
    def once_it_starts(_shown: Shown) -> bool:
        # Not sooner: before the magic runs, an interrupt is ipykernel's own matter.
        if not any(nbcloud_dirs.glob("clusters/local-*/spec.json")):
            return False
        notebook.interrupt()
        return True

    with running_notebook() as notebook:
        shown = notebook.run("%%cloud\nprint('x')", meanwhile=once_it_starts)
        assert shown.error == "KeyboardInterrupt"
        assert "interrupted before it was sent; nothing of it ran" in shown.traceback
        assert "nbcloud/" not in shown.traceback
        assert not list(nbcloud_dirs.glob("clusters/local-*"))
        works(notebook)
        assert "Stopped" in notebook.run("%cloud down").result

"""Whatever dies, the notebook gets one clear sentence, keeps what was printed, and its next cell works."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nbcloud import cli
from nbcloud.clusters.base import ClusterInfo
from tests.integration.notebooks import RunningNotebook, pids, running_notebook, when, works


@pytest.mark.parametrize(
    ("death", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed (SIGKILL)"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
    ],
)
def test_a_kernel_that_dies_leaves_its_last_words_and_a_working_notebook(
    notebook: RunningNotebook, death: str, words: str
) -> None:
    shown = notebook.run(f"%%cloud\nprint('the last words')\n{death}")
    assert shown.text() == "the last words\n"
    assert shown.error == "RunLost"
    assert words in shown.traceback
    assert "was lost" in works(notebook).notes


def test_a_kernel_that_is_started_anew_is_told_in_the_cell_that_waits_for_it(
    own_notebook: RunningNotebook,
) -> None:
    own_notebook.run("%cloud up\nfrom nbcloud.jupyter import progress\nprogress._QUIET_SECONDS = 0")
    own_notebook.run("%%cloud\n1")
    opened = "get_ipython().magics_manager.registry['CloudMagics'].runner.notebook.sessions.alive()"
    for _ in range(2):
        own_notebook.run("%%cloud\nimport os\nos.kill(os.getpid(), 9)")
        own_notebook.run(f"import time\nwhile {opened}: time.sleep(0.01)")  # the run's end comes another way
        shown = own_notebook.run("%%cloud\nprint('there')")
        kinds = [message["msg_type"] for message in shown.messages]
        assert kinds[:2] == ["display_data", "clear_output"], shown.messages
        (first,) = shown.of_type("display_data")
        assert first["data"]["text/plain"] == "nbcloud: starting a kernel …"
        assert shown.text() == "there\n"
    assert [m for m in own_notebook.stray if m["msg_type"] not in {"status", "execute_input"}] == []


def test_lines_printed_just_before_a_crash_are_all_there(notebook: RunningNotebook) -> None:
    shown = notebook.run("%%cloud\nfor i in range(5000): print('line', i)\nimport os; os._exit(1)")
    assert shown.text() == "".join(f"line {i}\n" for i in range(5000))


def test_a_killed_worker_ends_the_run_and_the_next_cell_finds_another(own_notebook: RunningNotebook) -> None:
    worker, _ = pids(own_notebook)
    shown = own_notebook.run(
        "%%cloud\nimport time\nprint('begun', flush=True)\ntime.sleep(60)",
        meanwhile=when("begun", lambda: os.kill(worker, signal.SIGKILL)),
    )
    assert (shown.text(), shown.error) == ("begun\n", "RunLost")
    assert "its worker is gone" in shown.traceback
    works(own_notebook)


def test_a_killed_scheduler_ends_the_run_and_the_next_cell_starts_a_new_cluster(
    own_notebook: RunningNotebook, own_cluster: ClusterInfo
) -> None:
    assert own_cluster.pid is not None
    scheduler = own_cluster.pid
    shown = own_notebook.run(
        "%%cloud\nimport time\nprint('begun', flush=True)\ntime.sleep(60)",
        meanwhile=when("begun", lambda: os.kill(scheduler, signal.SIGKILL)),
    )
    assert (shown.text(), shown.error) == ("begun\n", "RunLost")
    assert "scheduler" in shown.traceback
    assert "variables that only it had are gone" in works(own_notebook).notes


def test_down_names_the_runs_that_it_ends_and_their_notebook_hears_why(
    own_notebook: RunningNotebook, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
    background = own_notebook.start(f"%%cloud -s other --bg\n{sleep}")
    own_notebook.finish(background)
    shown = own_notebook.run(f"%%cloud\n{sleep}", meanwhile=when("begun", lambda: cli.main(["down"])))
    assert shown.error == "RunLost"
    assert "was lost: its cluster was stopped." in shown.traceback
    said = own_notebook.later(background, lambda shown: "was lost" in shown.notes).notes
    assert "was lost: its cluster was stopped." in said
    assert cli.main(["runs", "--json"]) == 0
    answer, _, listed = capsys.readouterr().out.partition("\n")
    runs = json.loads(listed)
    assert {run["message"] for run in runs} == {"its cluster was stopped"}
    assert len(runs) == 2
    assert answer.startswith("Stopped: 'local'. 2 runs were going: ")
    assert all(run["id"] in answer for run in runs)


def test_the_record_of_a_lost_run_says_why(notebook: RunningNotebook) -> None:
    notebook.run("%%cloud --name doomed\nprint('kept')\nimport os; os._exit(7)")
    shown = notebook.run(
        "import json\nfrom IPython import get_ipython\n"
        "rows = get_ipython().run_line_magic('cloud', 'runs doomed --json')\nprint(json.dumps(rows[0]))"
    )
    record = json.loads(shown.text())
    assert (record["state"], record["exit_info"]) == ("lost", {"code": 7})
    assert "exit code 7" in record["message"]
    assert notebook.run("%cloud logs").text() == "kept\n"


def test_what_a_session_lost_is_sent_again_with_what_is_new(notebook: RunningNotebook) -> None:
    notebook.run("kept = list(range(1000))\nother = 'as it was'")
    assert notebook.run("%%cloud -s with-two\nlen(kept), other").result == "(1000, 'as it was')"
    with running_notebook() as second:
        assert "del kept" in second.run("%%cloud -s with-two\ndel kept\n'del kept'").result
    notebook.run("new = ['x'] * 500\nother = 'new'")
    shown = notebook.run("%%cloud -s with-two\nlen(kept), len(new), other", limit=90)
    assert shown.result == "(1000, 500, 'new')"


def test_a_kernel_that_is_killed_while_much_is_on_its_way_leaves_no_gap(notebook: RunningNotebook) -> None:
    shown = notebook.run(
        "%%cloud\nimport os, threading, time\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), 9)).start()\n"
        "for number in range(10**6): print(f'{number:07}' * 40_000)",
        limit=60,
    )
    assert shown.error == "RunLost"
    run = re.search(r"Run (\w+) was lost", shown.traceback)
    assert run is not None
    lines = notebook.run(
        f"import nbcloud.dispatch.recorder as r\nwith r.open_store() as s: text = s.text('{run[1]}')"
    )
    assert not lines.error, lines.traceback
    numbers = notebook.run("[line[:7] for line in text.splitlines() if len(line) >= 7]").result
    found = [int(number) for number in ast.literal_eval(numbers)]
    assert found == list(range(len(found)))
    assert len(found) > 3


def test_a_cell_whose_session_was_gone_before_it_began_is_sent_once_more(
    notebook: RunningNotebook, local_cluster: ClusterInfo
) -> None:
    deaf = (
        "from nbcloud.dispatch.links import _links\n"
        "link = list(_links.values())[-1]\n"
        "notebook = get_ipython().magics_manager.registry['CloudMagics'].runner.notebook\n"
        "session = notebook.sessions.find('gone')\n"
        "link.forget(session.id)\n"
        "link.ask('close', session=session.id)"
    )
    by_journal = "link._loop.call_soon_threadsafe(link._shortcuts.clear)"
    notebook.run("%%cloud -s gone\nkept = 1")
    assert notebook.run(f"{deaf}\n{by_journal}").error == ""
    shown = notebook.run("%%cloud -s gone\nprint('once')")
    assert (shown.error, shown.text()) == ("", "once\n")
    assert (
        "did not begin: its session was lost before it began: it was reset. The cell is sent" in shown.notes
    )
    assert "This is a new one" in shown.notes
    # What went straight to its worker may have run there, for all that the journal knows.
    wait = "import time\nwhile not any(each.connected for each in link._shortcuts.values()): time.sleep(0.01)"
    assert notebook.run(f"{wait}\n{deaf}").error == ""
    shown = notebook.run("%%cloud -s gone\nprint('never')")
    assert (shown.error, shown.text()) == ("RunLost", "")
    assert "sent once more" not in shown.notes


def test_a_scheduler_that_is_started_anew_is_told_in_one_sentence(
    nbcloud_dirs: Path,
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, _, port = address.rpartition(":")
    log = (tmp_path / "dask.log").open("wb")

    def start() -> list[subprocess.Popen[bytes]]:
        dask = [sys.executable, "-m", "dask"]
        scheduler = [*dask, "scheduler", "--host", host, "--port", port, "--no-dashboard"]
        worker = [*dask, "worker", f"tcp://{address}", "--no-nanny", "--no-dashboard", "--nthreads", "1"]
        return [subprocess.Popen(words, stdout=log, stderr=log) for words in (scheduler, worker)]

    def end(processes: list[subprocess.Popen[bytes]]) -> None:
        for process in reversed(processes):
            process.kill()
            process.wait()

    there = start()
    try:
        with running_notebook() as notebook:
            up = f"%cloud up tcp://{address} --name anew"
            deadline = time.monotonic() + 30
            while notebook.run(up).error and time.monotonic() < deadline:
                time.sleep(0.2)

            def start_anew() -> None:
                end(there)
                there[:] = start()

            shown = notebook.run(
                "%%cloud -c anew\nimport time\nprint('begun', flush=True)\ntime.sleep(60)",
                meanwhile=when("begun", start_anew),
            )
            # The old scheduler may have had the time to say what became of its worker.
            lost = "(the scheduler was started anew; what runs and sessions it had is lost|its worker is gone .*)"
            assert re.search(f"was lost: {lost}\\.", shown.traceback), shown.traceback
            deadline = time.monotonic() + 30
            shown = notebook.run("%%cloud -c anew\nprint('on')")
            # While it is not there yet, or goes away from under the question, a cell ends with a sentence.
            while shown.error in {"ClusterLost", "SessionError"} and time.monotonic() < deadline:
                shown = notebook.run("%%cloud -c anew\nprint('on')")
            assert (shown.error, shown.text()) == ("", "on\n")
            assert re.search(rf"was lost \({lost}\)\. This is a new one", shown.notes), shown.notes
            notebook.run("%cloud down anew")
    finally:
        end(there)
        log.close()

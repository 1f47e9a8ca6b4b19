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
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from nbcloud import cli
from nbcloud.clusters.base import ClusterInfo
from tests.integration.notebooks import RunningNotebook, Shown, running_notebook


def when(text: str, action: Callable[[], object]) -> Callable[[Shown], bool]:
    """Do something once a cell has printed ``text``."""

    def look(shown: Shown) -> bool:
        if text not in shown.text():
            return False
        action()
        return True

    return look


def works(notebook: RunningNotebook) -> Shown:
    """The next cell runs."""
    shown = notebook.run("%%cloud\n20 + 1")
    assert shown.result == "21", shown.messages
    return shown


def pids(notebook: RunningNotebook) -> tuple[int, int]:
    """Processes of the session's worker and kernel."""
    shown = notebook.run("%%cloud\nimport os\nprint(os.getppid(), os.getpid())")
    worker, kernel = shown.text().split()
    return int(worker), int(kernel)


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
    opened = "get_ipython().magics_manager.registry['CloudMagics'].runner.notebook.open_sessions()"
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


def test_a_kernel_that_stands_still_is_ended_by_the_second_interrupt(notebook: RunningNotebook) -> None:
    _, kernel = pids(notebook)
    steps = iter((lambda: os.kill(kernel, signal.SIGSTOP), notebook.interrupt, notebook.interrupt))
    waited = []

    def step(shown: Shown) -> bool:
        waited.append(1)
        if "begun" not in shown.text() or len(waited) % 10:
            return False
        action = next(steps, None)
        if action is not None:
            action()
        return action is None

    shown = notebook.run("%%cloud\nimport time\nprint('begun', flush=True)\ntime.sleep(60)", meanwhile=step)
    assert (shown.text(), shown.error) == ("begun\n", "RunCancelled")
    works(notebook)


def test_a_worker_that_stands_still_is_told_and_can_be_left(own_notebook: RunningNotebook) -> None:
    worker, _ = pids(own_notebook)
    interrupts = []

    def look(shown: Shown) -> bool:
        if "begun" in shown.text() and not interrupts:
            os.kill(worker, signal.SIGSTOP)
            interrupts.append(0)
        if "has not answered" in shown.notes:
            if len(interrupts) in (1, 20):
                own_notebook.interrupt()
            interrupts.append(1)
        return False

    try:
        shown = own_notebook.run(
            "%%cloud\nimport time\nprint('begun', flush=True)\ntime.sleep(100)", meanwhile=look, limit=90
        )
        assert (shown.text(), shown.error) == ("begun\n", "RunLost")
        assert "%cloud attach" in shown.traceback
        works(own_notebook)  # on the other worker
    finally:
        os.kill(worker, signal.SIGCONT)


def test_a_scheduler_that_stands_still_for_a_while_loses_nothing(
    own_notebook: RunningNotebook, own_cluster: ClusterInfo
) -> None:
    assert own_cluster.pid is not None
    scheduler = own_cluster.pid
    looks = []

    def look(shown: Shown) -> bool:
        if "3\n" in shown.text() and not looks:
            os.kill(scheduler, signal.SIGSTOP)
        if looks or "3\n" in shown.text():
            looks.append(1)
        if len(looks) == 40:  # two seconds
            os.kill(scheduler, signal.SIGCONT)
            return True
        return False

    shown = own_notebook.run(
        "%%cloud\nimport time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)",
        meanwhile=look,
    )
    assert shown.text() == "".join(f"{i}\n" for i in range(40))


def _cut(address: str, pid: int) -> None:
    """Break this process's connections to a scheduler or worker, as a lost network would."""
    port = address.rpartition(":")[2]
    listed = subprocess.run(
        ["ss", "-Htnp", "dst", "127.0.0.1", "dport", "=", f":{port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        if f"pid={pid}," in line:
            source = line.split()[3].rpartition(":")[2]
            subprocess.run(
                ["ss", "-K", "src", "127.0.0.1", "sport", "=", f":{source}", "dport", "=", f":{port}"],
                capture_output=True,
                check=True,
            )


def _can_cut() -> bool:
    if not Path("/proc/net/tcp").exists() or os.geteuid() != 0:
        return False
    try:
        return subprocess.run(["ss", "-K", "dst", "192.0.2.1"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(
    not _can_cut(), reason="cutting a connection from outside needs Linux, root and ss (iproute2)"
)
@pytest.mark.parametrize("to", ["scheduler", "worker", "both"])
def test_a_dropped_connection_is_made_again_and_nothing_is_lost_or_doubled(
    notebook: RunningNotebook, local_cluster: ClusterInfo, to: str
) -> None:
    pid = int(notebook.run("import os; os.getpid()").result)
    notebook.run("%%cloud\npass")  # the next cell takes the shortcut
    worker = notebook.run(
        "from nbcloud.dispatch.links import _links\n"
        "[*[*_links.values()][-1]._shortcuts]  # where its shortcuts lead"
    ).result
    cuts: list[int] = []

    def look(shown: Shown) -> bool:
        lines = shown.text().count("\n")
        if lines > 10 * (len(cuts) + 1):
            cuts.append(lines)
            if to != "worker":
                _cut(local_cluster.address, pid)
            if to != "scheduler":
                _cut(ast.literal_eval(worker)[0], pid)
        return len(cuts) == 3

    shown = notebook.run(
        "%%cloud\nimport time\nfor i in range(60):\n    print(i, flush=True)\n    time.sleep(0.03)",
        meanwhile=look,
    )
    assert len(cuts) == 3
    assert shown.text() == "".join(f"{i}\n" for i in range(60))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a small disk needs root to be mounted")
def test_a_full_disk_under_the_journal_loses_nothing_that_memory_can_hold(
    own_notebook: RunningNotebook, own_cluster: ClusterInfo
) -> None:
    journal = Path(own_cluster.directory or "") / "journal"
    journal.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(journal)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode()}")
    try:
        shown = own_notebook.run("%%cloud\nfor i in range(20000): print('line', i)")
        assert shown.text() == "".join(f"line {i}\n" for i in range(20000))
        assert shown.error == ""
        works(own_notebook)
    finally:
        subprocess.run(["umount", "-l", str(journal)], check=True)


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
    shown = notebook.run("%%cloud -s with-two\nlen(kept), len(new), other", limit=30)
    assert shown.result == "(1000, 500, 'new')"


def test_interrupts_at_any_moment_leave_no_run_without_an_end(notebook: RunningNotebook) -> None:
    _, kernel = pids(notebook)
    ends = set()
    for attempt in range(40):
        delay = 0.001 * attempt
        timer = threading.Timer(delay, os.kill, (kernel, signal.SIGINT))
        timer.start()
        shown = notebook.run(f"%%cloud\nz = {attempt}\nprint(z)", limit=30)
        timer.join()
        ends.add(shown.error)
        assert shown.error in {"", "KeyboardInterrupt"}, shown.traceback
    assert "" in ends
    works(notebook)


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
    assert own_notebook.run("%%cloud\n20 + 1", limit=30).result == "21"
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


def test_a_cell_whose_session_was_gone_before_it_began_is_sent_once_more(
    notebook: RunningNotebook, local_cluster: ClusterInfo
) -> None:
    deaf = (
        "from nbcloud.dispatch.links import _links\n"
        "link = list(_links.values())[-1]\n"
        "notebook = get_ipython().magics_manager.registry['CloudMagics'].runner.notebook\n"
        "session = notebook.find('gone')\n"
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

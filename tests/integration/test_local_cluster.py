"""The local cluster with real processes: starts, ends, faults, TLS."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest

from nbcloud.clusters import connect, local, process, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.errors import ClusterLost, ClusterNotFound, ClusterStartError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are injected by POSIX signals")

Wait = Callable[..., Any]
Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def up() -> Iterator[Callable[..., ClusterInfo]]:
    """Bring a small cluster up; at the end all are down, and no process is left."""
    ids: list[str] = []

    def start(name: str = "local", **options: Any) -> ClusterInfo:
        info = local.up(name, **{"workers": 1, "threads": 1, "idle_timeout": 300, **options})
        ids.append(info.id)
        return info

    yield start
    for info in registry.entries():
        ids.append(info.id)
        local.down(info)
    assert (
        process.wait_gone([each for cluster_id in ids for each in process.members(None, cluster_id)], 5) == []
    )


def worker_pids(info: ClusterInfo) -> set[int]:
    return {worker["pid"] for worker in connect.status(info)["workers"]}


def line_of(other: subprocess.Popen[str]) -> Any:
    assert other.stdout is not None
    return json.loads(other.stdout.readline())


def client_of(info: ClusterInfo) -> distributed.Client:
    return distributed.Client(info.address, security=info.security(), set_as_default=False)


UP = """
import json
from nbcloud.clusters import local
def tell(what):
    print(json.dumps(what), flush=True)
info = local.up(workers=1, threads=1, idle_timeout=300, progress=tell)
tell([info.id, info.pid])
input()
"""


# --- start -----------------------------------------------------------------------------------------------


def test_phases_are_told_and_defaults_fit_the_machine(up: Callable[..., ClusterInfo]) -> None:
    told: list[str] = []
    info = up(workers=None, threads=None, progress=told.append)
    assert told == ["starting the scheduler", f"starting {info.workers} workers"]
    assert 2 <= info.workers <= 4
    status = connect.status(info)
    assert len(status["workers"]) == info.workers
    for worker in status["workers"]:
        assert worker["nthreads"] == info.threads >= 1
        assert worker["memory_limit"] == info.memory
        assert worker["resources"]["CPU"] >= 1
        assert worker["resources"]["MEMORY"] == info.memory
        assert psutil.pid_exists(worker["pid"])
    assert info.memory * info.workers <= psutil.virtual_memory().total


def test_options_reach_the_workers(up: Callable[..., ClusterInfo]) -> None:
    info = up(workers=2, threads=3, memory="1GiB", resources={"GPU": 1}, idle_timeout=77)
    assert (info.workers, info.threads, info.memory, info.idle_timeout) == (2, 3, 2**30, 77)
    assert [worker["resources"] for worker in connect.status(info)["workers"]] == [
        {"CPU": 3, "MEMORY": 2**30, "GPU": 1}
    ] * 2


def test_another_process_finds_it(up: Callable[..., ClusterInfo], other_process: Run) -> None:
    info = up()
    other = other_process(
        "import json; from nbcloud.clusters import connect; print(json.dumps(connect.resolve().id))"
    )
    assert line_of(other) == info.id


def test_up_on_a_running_cluster_says_when_its_options_differ(up: Callable[..., ClusterInfo]) -> None:
    told: list[str] = []
    info = up()
    assert up(workers=3, progress=told.append) == info
    assert told == ["'local' is up already, with other options; they stay"]


def test_two_processes_that_call_up_at_once_get_one_cluster(
    up: Callable[..., ClusterInfo], other_process: Run
) -> None:
    others = [other_process(UP) for _ in range(2)]
    lines: list[list[Any]] = [[], []]
    for other, told in zip(others, lines, strict=True):
        while not told or isinstance(told[-1], str):
            told.append(line_of(other))
    assert lines[0][-1] == lines[1][-1]
    assert "waiting for another process that starts or ends 'local'" in lines[0] + lines[1]
    assert [info.id for info in registry.entries()] == [lines[0][-1][0]]
    directories = [path for path in registry.folder().iterdir() if path.is_dir()]
    assert len(directories) == 1


def test_it_survives_the_process_that_started_it(
    up: Callable[..., ClusterInfo], other_process: Run, wait_until: Wait
) -> None:
    other = other_process(UP)
    while isinstance(line := line_of(other), str):
        pass
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGKILL):
        os.killpg(other.pid, number)
    other.wait()
    info = up()
    assert [info.id, info.pid] == line
    assert len(worker_pids(info)) == 1


def test_a_start_goes_on_when_the_starter_is_killed(
    up: Callable[..., ClusterInfo], other_process: Run
) -> None:
    other = other_process(UP)
    assert line_of(other) == "starting the scheduler"
    other.kill()
    [started] = registry.entries()
    assert up().id == started.id


def test_workers_have_the_environment_of_the_caller(
    up: Callable[..., ClusterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "s3cret")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    info = up()
    with client_of(info) as client:
        assert set(client.run(os.getenv, "A_TOKEN").values()) == {"s3cret"}
        # Dask would set it to 1, and every kernel would inherit that.
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {None}
        assert set(client.run(os.getcwd).values()) == {info.directory}


def test_the_users_dask_configuration_can_not_break_it(
    up: Callable[..., ClusterInfo], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__IDLE_TIMEOUT", "1ms")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__PRELOAD", "no_such_module")
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "no_such_module")
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION", "1s")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION", "9")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://192.0.2.1:1")
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__CONTACT_ADDRESS", "tcp://192.0.2.1:1")
    info = up()
    assert len(worker_pids(info)) == 1


def test_it_starts_where_nbcloud_is_on_the_path_of_the_caller_only(
    up: Callable[..., ClusterInfo], tmp_path: Path
) -> None:
    root = str(Path(local.__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r})\n"
    code += "from nbcloud.clusters import local; print(local.up(workers=1).id)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert up().id == done.stdout.strip()


# --- a start that fails ----------------------------------------------------------------------------------


def nothing_is_left() -> bool:
    clusters = [path for path in registry.folder().iterdir() if path.suffix != ".lock"]
    directory = str(registry.folder())
    processes = [
        each for each in psutil.process_iter(["cmdline"]) if directory in " ".join(each.info["cmdline"] or [])
    ]
    return not clusters and not processes


def test_a_start_that_fails_shows_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('this is not the distributed you want')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ClusterStartError, match="this is not the distributed you want") as caught:
        local.up()
    assert str(caught.value).startswith(
        "The local cluster 'local' ended before it was up; its log ends with:\n"
    )
    assert nothing_is_left()


def test_a_start_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ClusterStartError, match="did not come up in time"):
        local.up(timeout=0.2)
    assert nothing_is_left()


def test_an_interrupted_start_leaves_nothing() -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.up(progress=interrupt)
    assert nothing_is_left()


# --- TLS -------------------------------------------------------------------------------------------------


ALERT = b"\x15"
"""The first byte of a TLS record that is an alert."""


def listening(info: ClusterInfo) -> list[tuple[str, int]]:
    return [
        (connection.laddr.ip, connection.laddr.port)
        for each in process.members(info.pid, info.id)
        for connection in each.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def greeting(address: tuple[str, int], context: ssl.SSLContext | None) -> bytes:
    """What the server sends first; a Dask server greets at once."""
    with socket.create_connection(address, timeout=5) as plain:
        if context is None:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return plain.recv(100)
        with context.wrap_socket(plain) as encrypted:
            return encrypted.recv(100)


def client_context(info: ClusterInfo, *, certificate: tuple[str, str] | None) -> ssl.SSLContext:
    assert info.tls is not None
    context = ssl.create_default_context(cafile=info.tls.ca)
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def test_every_port_is_on_loopback_and_asks_for_our_certificate(
    local_cluster: ClusterInfo, tmp_path: Path
) -> None:
    ports = listening(local_cluster)
    # The scheduler, and for each worker itself and its nanny; no HTTP.
    assert len(ports) == 1 + 2 * local_cluster.workers
    assert local_cluster.tls is not None
    ours = client_context(local_cluster, certificate=(local_cluster.tls.cert, local_cluster.tls.key))
    nameless = client_context(local_cluster, certificate=None)
    stranger = client_context(local_cluster, certificate=certificate_of_a_stranger(tmp_path))
    for address in ports:
        assert address[0] == "127.0.0.1"
        assert greeting(address, ours) != b""
        for context in (nameless, stranger):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                greeting(address, context)
        with suppress(ConnectionError):
            assert greeting(address, None)[:1] in (b"", ALERT)


def certificate_of_a_stranger(directory: Path) -> tuple[str, str]:
    security = distributed.Security.temporary()
    files = directory / "cert.pem", directory / "key.pem"
    files[0].write_text(security.tls_client_cert)
    files[1].write_text(security.tls_client_key)
    return str(files[0]), str(files[1])


def test_no_file_can_be_read_by_others(local_cluster: ClusterInfo) -> None:
    directory = Path(local_cluster.directory or "")
    for path in (
        registry.folder(),
        directory,
        directory / "journal",
        directory / "spool",
        directory / "scratch",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    files = [path for where in (registry.folder(), directory) for path in where.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"ca.pem", "cert.pem", "key.pem", "daemon.log", "local.json"}
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {
        path.name: "0o600" for path in files
    }


# --- scale -----------------------------------------------------------------------------------------------


def test_scale_up_and_down(up: Callable[..., ClusterInfo]) -> None:
    info = up()
    more = connect.scale(info, 3)
    assert (more.workers, more.id) == (3, info.id)
    assert registry.get("local") == more
    assert len(worker_pids(info)) == 3
    less = connect.scale(more, 1)
    assert len(worker_pids(info)) == 1
    assert less.options["workers"] == 1
    members = [each.pid for each in process.members(info.pid, info.id)]
    assert worker_pids(info) <= set(members)


def test_scale_down_spares_the_worker_with_a_session(
    up: Callable[..., ClusterInfo], wait_until: Wait
) -> None:
    info = up(workers=3)
    # The newest goes first otherwise.
    address = next(each["address"] for each in connect.status(info)["workers"] if each["name"] == 2)
    with client_of(info) as client:
        session = client.submit(time.sleep, 600, key="nbcloud-session-a", workers=[address])
        wait_until(lambda: client.processing()[address])
        connect.scale(info, 1)
        assert [worker["address"] for worker in connect.status(info)["workers"]] == [address]
        assert client.processing() == {address: ("nbcloud-session-a",)}
        del session


def test_what_a_removed_worker_started_goes_with_it(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(workers=2)
    with client_of(info) as client:
        pids = client.run(spawn_child).values()
        connect.scale(info, 1)
    left = [pid for pid in pids if process.birth(pid)]
    assert len(left) == 1


# --- end -------------------------------------------------------------------------------------------------

# Sent to the cluster by value: its workers can't import this file.
spawn_child = eval("lambda: __import__('subprocess').Popen(['sleep', '600'], start_new_session=True).pid")


def test_down_ends_every_process_and_removes_all_but_the_journals(up: Callable[..., ClusterInfo]) -> None:
    info = up(workers=2)
    directory = Path(info.directory or "")
    (directory / "journal" / "run.jsonl").write_text("printed")
    (directory / "spool" / "payload").write_text("x")
    with client_of(info) as client:
        children = list(client.run(spawn_child).values())
    before = process.members(info.pid, info.id)
    assert len(before) >= 5
    local.down(info)
    assert [each for each in before if process.birth(each.pid)] == []
    assert [pid for pid in children if process.birth(pid)] == []
    assert [str(path.relative_to(directory)) for path in sorted(directory.rglob("*"))] == [
        "journal",
        "journal/run.jsonl",
    ]
    assert not local.alive(info)


def test_down_ends_a_cluster_that_is_stopped(up: Callable[..., ClusterInfo]) -> None:
    info = up()
    for each in process.members(info.pid, info.id):
        each.suspend()
    local.down(info, timeout=1)
    assert process.members(info.pid, info.id) == []


def test_it_stops_by_itself_when_idle(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=0.6)
    wait_until(lambda: not local.alive(info))
    assert registry.get("local") is None
    assert not Path(info.directory or "").exists()
    assert process.wait_gone(process.members(None, info.id), 5) == []


def test_work_keeps_it_up_and_a_sleeping_session_does_not(
    up: Callable[..., ClusterInfo], wait_until: Wait
) -> None:
    info = up(idle_timeout=0.6, threads=2)
    with client_of(info) as client:
        session = client.submit(time.sleep, 600, key="nbcloud-session-a")
        client.submit(time.sleep, 2.5, key="work").result()
        assert local.alive(info)
        wait_until(lambda: not local.alive(info))
        del session


def test_sessions_say_whether_they_are_busy(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=0.6)
    begin = (
        "lambda dask_scheduler: dask_scheduler.extensions.update("
        "nbcloud=__import__('types').SimpleNamespace(busy=True, last_active=0.0))"
    )
    end = "lambda dask_scheduler: setattr(dask_scheduler.extensions['nbcloud'], 'busy', False)"
    with client_of(info) as client:
        client.run_on_scheduler(eval(begin))
        busy_until = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > busy_until or not local.alive(info))
        assert local.alive(info)
        client.run_on_scheduler(eval(end))
        wait_until(lambda: not local.alive(info))


def test_it_stops_when_the_registry_forgot_it(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=4)
    registry.remove(info.name, info.id)
    wait_until(lambda: not local.alive(info))


def test_it_stops_when_a_client_shuts_the_scheduler_down(
    up: Callable[..., ClusterInfo], wait_until: Wait
) -> None:
    info = up()
    with client_of(info) as client:
        client.shutdown()
    wait_until(lambda: not local.alive(info))
    wait_until(lambda: registry.get("local") is None)


# --- faults ----------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up()
    old: set[int] = set()
    for _ in range(2):
        [pid] = worker_pids(info) - old
        old.add(pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker_pids(info) - old)
    with client_of(info) as client:
        assert client.submit(pow, 2, 3).result(timeout=20) == 8


def test_a_worker_whose_nanny_gave_up_is_replaced(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(idle_timeout=8)
    old = worker_pids(info)
    with client_of(info) as client:
        close = eval("lambda dask_worker: dask_worker.loop.add_callback(dask_worker.close) and None")
        client.run(close, nanny=True)
        wait_until(lambda: worker_pids(info) - old)


def test_a_killed_daemon_leaves_no_process(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up(workers=2)
    with client_of(info) as client:
        children = list(client.run(spawn_child).values())
    workers = [psutil.Process(pid) for pid in worker_pids(info)]
    before = process.members(info.pid, info.id)
    os.kill(info.pid or 0, signal.SIGKILL)
    assert process.wait_gone(workers, 10) == []
    assert process.wait_gone([each for each in before if each.pid not in children], 10) == []
    # What the workers had started is nobody's child now; whoever looks next at the registry ends it.
    assert registry.entries() == []
    assert [pid for pid in children if process.birth(pid)] == []
    assert not Path(info.directory or "").exists()


@pytest.mark.parametrize("seen", [False, True])
def test_a_dead_cluster_is_started_again_as_it_was(
    up: Callable[..., ClusterInfo], wait_until: Wait, seen: bool
) -> None:
    info = up("big", workers=2, threads=2, memory="1GiB", resources={"GPU": 1})
    os.kill(info.pid or 0, signal.SIGKILL)
    wait_until(lambda: not local.alive(info))
    if seen:  # somebody listed the clusters, and so cleaned the entry away
        with pytest.raises(ClusterNotFound):
            connect.resolve("big", start=False)
    again = connect.resolve("big")
    assert again.id != info.id
    assert again.options == info.options
    assert (again.workers, again.threads, again.memory) == (2, 2, 2**30)
    assert connect.status(again)["workers"][0]["resources"]["GPU"] == 1
    local.down(again)
    with pytest.raises(ClusterNotFound):
        connect.resolve("big")


def test_a_dead_scheduler_is_lost_at_once(up: Callable[..., ClusterInfo], wait_until: Wait) -> None:
    info = up()
    os.kill(info.pid or 0, signal.SIGKILL)
    wait_until(lambda: not local.alive(info))
    with pytest.raises(
        ClusterLost,
        match=rf"The cluster 'local' is gone \(its process was {info.pid}\). Type: %cloud up local",
    ):
        connect.status(info)
    with pytest.raises(ClusterLost):
        connect.scale(info, 2)


def test_a_scheduler_that_hangs_is_told_in_time(up: Callable[..., ClusterInfo]) -> None:
    info = up()
    os.kill(info.pid or 0, signal.SIGSTOP)
    try:
        assert local.alive(info)
        began = time.monotonic()
        with pytest.raises(ClusterLost, match=r"gives no answer \(1 s\)"):
            connect.status(info, timeout=1)
        with pytest.raises(ClusterLost, match=r"gives no answer \(1 s\)"):
            local.scale(info, 2, timeout=1)
        assert time.monotonic() - began < 5
    finally:
        os.kill(info.pid or 0, signal.SIGCONT)
    assert len(worker_pids(info)) == 1


def test_status_can_be_asked_from_within_an_event_loop_and_from_threads(local_cluster: ClusterInfo) -> None:
    import asyncio

    async def inside() -> dict[str, Any]:
        return connect.status(local_cluster)

    assert len(asyncio.run(inside())["workers"]) == 2
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(connect.status(local_cluster))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(answer["workers"]) for answer in answers] == [2] * 4

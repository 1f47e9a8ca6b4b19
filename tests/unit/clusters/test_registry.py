from __future__ import annotations

import logging
import os
import platform
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nbcloud.clusters import process, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.errors import ClusterError, UsageError, VersionSkew

ME = ClusterInfo(
    name="mine",
    id="11111111",
    kind="local",
    address="tls://127.0.0.1:1",
    pid=os.getpid(),
    started=process.birth(os.getpid()) or "",
    host=platform.node(),
)
"""A local cluster whose process surely lives: the test's own."""


def dead(info: ClusterInfo = ME) -> ClusterInfo:
    return replace(info, started="another boot/1")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_put_get_remove() -> None:
    assert registry.get("mine") is None
    registry.put(ME)
    assert registry.get("mine") == ME
    assert registry.entries() == [ME]
    registry.remove("mine", "another")
    assert registry.get("mine") == ME
    registry.remove("mine", ME.id)
    assert registry.get("mine") is None
    registry.remove("mine", ME.id)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_only_this_user_can_read_the_registry() -> None:
    registry.put(ME)
    with registry.lock("mine", timeout=1):
        pass
    assert mode(registry.folder()) == 0o700
    assert {mode(path) for path in registry.folder().iterdir()} == {0o600}


def test_names_do_not_leave_the_registry() -> None:
    for name in ("../mine", "a/b", ""):
        with pytest.raises(UsageError):
            registry.get(name)
        with pytest.raises(UsageError), registry.lock(name, timeout=0):
            pass


def test_a_failed_write_leaves_the_old_entry_and_no_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.put(ME)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        registry.put(replace(ME, workers=7))
    assert registry.get("mine") == ME
    assert [path.name for path in registry.folder().iterdir()] == ["mine.json"]


def test_a_dead_entry_is_cleaned_with_its_directory() -> None:
    directory = registry.folder() / "mine-11111111"
    (directory / "scratch" / "deep").mkdir(parents=True)
    (directory / "key.pem").write_text("secret")
    (directory / "journal").mkdir()
    registry.put(dead(replace(ME, directory=str(directory))))
    assert registry.entries() == []
    assert registry.get("mine") is None
    assert not directory.exists()


def test_journals_are_kept() -> None:
    directory = registry.folder() / "mine-11111111"
    (directory / "journal").mkdir(parents=True)
    (directory / "journal" / "run").write_text("printed")
    (directory / "key.pem").write_text("secret")
    registry.put(dead(replace(ME, directory=str(directory))))
    assert registry.entries() == []
    assert [str(path.relative_to(directory)) for path in directory.rglob("*")] == ["journal", "journal/run"]


def test_no_other_directory_is_ever_removed(tmp_path: Path) -> None:
    for directory in (
        tmp_path,
        registry.folder(),
        registry.folder() / "other-11111111",
        tmp_path / "mine-11111111",
    ):
        directory.mkdir(exist_ok=True)
        (directory / "keep").write_text("")
        registry.put(dead(replace(ME, directory=str(directory))))
        assert registry.entries() == []
        assert (directory / "keep").exists()


def test_a_reused_pid_is_not_the_cluster() -> None:
    assert registry.state(ME) == "live"
    assert registry.state(dead()) == "dead"


def test_a_process_that_is_dead_but_not_reaped_is_dead(wait_until: Callable[..., object]) -> None:
    child = subprocess.Popen(["sleep", "60"])
    started = process.birth(child.pid)
    assert started is not None
    assert process.is_alive(child.pid, started)
    child.kill()
    wait_until(lambda: not process.is_alive(child.pid, started))
    child.wait()


def test_what_another_machine_registered_is_left_alone() -> None:
    elsewhere = dead(replace(ME, host="another-machine"))
    registry.put(elsewhere)
    assert registry.state(elsewhere) == "elsewhere"
    assert registry.entries() == [elsewhere]


def test_a_machine_that_changed_its_name_still_knows_its_clusters() -> None:
    assert registry.state(replace(ME, host="old-name")) == "live"


@pytest.mark.parametrize("text", ["", "{", '{"format": 1, "name": "mine"}', "\x00\x01", "[]"])
def test_a_malformed_entry_is_told_once_in_a_sentence_and_cleaned(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry.put(replace(ME, name="good"))
    path = registry.folder() / "mine.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert [info.name for info in registry.entries()] == ["good"]
        assert [info.name for info in registry.entries()] == ["good"]
    [record] = caplog.records
    assert record.getMessage().startswith(f"The registry's entry {path} can't be used: it ")
    assert record.exc_info is None
    assert not path.exists()


def test_an_entry_that_is_not_text_is_cleaned() -> None:
    (registry.folder() / "mine.json").write_bytes(b"\xff\xfe\x00")
    assert registry.entries() == []
    assert not (registry.folder() / "mine.json").exists()


def test_the_entry_of_a_newer_nbcloud_is_told_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    path = registry.folder() / "mine.json"
    path.write_text('{"format": 99, "name": "mine"}')
    with caplog.at_level(logging.WARNING):
        assert registry.entries() == []
    assert "Upgrade nbcloud" in caplog.text
    assert path.exists()
    with pytest.raises(VersionSkew):
        registry.get("mine")


def test_readers_never_see_half_an_entry() -> None:
    registry.put(ME)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            registry.put(replace(ME, workers=number, options={"x": "y" * (number % 5000)}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(registry.get("mine") is not None for _ in range(500))
    finally:
        stop.set()
        writer.join()


def test_the_lock_lets_one_in_and_tells_the_other() -> None:
    told: list[str] = []
    entered: list[str] = []

    def second() -> None:
        with registry.lock("mine", timeout=10, waiting=lambda: told.append("waiting")):
            entered.append("second")

    with registry.lock("mine", timeout=0):
        thread = threading.Thread(target=second)
        thread.start()
        while not told:
            time.sleep(0.01)
        with registry.lock("other", timeout=0):
            pass
        entered.append("first")
    thread.join()
    assert entered == ["first", "second"]
    assert told == ["waiting"]


def test_a_lock_that_is_held_too_long_is_an_error_in_words() -> None:
    with (
        registry.lock("mine", timeout=0),
        pytest.raises(ClusterError, match=r"starting or ending the cluster 'mine' for 0.1 s. Wait"),
        registry.lock("mine", timeout=0.1),
    ):
        pass


def test_entries_does_not_wait_for_a_cluster_that_another_process_restarts() -> None:
    registry.put(dead())
    with registry.lock("mine", timeout=0):
        assert registry.entries() == []
        assert registry.get("mine") is not None
    assert registry.entries() == []
    assert registry.get("mine") is None

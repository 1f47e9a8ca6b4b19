from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nbcloud.clusters import connect, existing, local, process, registry
from nbcloud.clusters.base import ClusterInfo, TLSFiles
from nbcloud.errors import ClusterLost, ClusterNotFound, ClusterStartError, ConfigError, UsageError


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workers": 0}, "The number of workers can't be 0. Give a whole number of at least 1."),
        ({"workers": -1}, "The number of workers can't be -1."),
        ({"workers": 1.5}, "The number of workers can't be 1.5."),
        ({"workers": True}, "The number of workers can't be True."),
        ({"threads": 0}, "The number of threads can't be 0."),
        ({"memory": 1000}, "The memory of a worker can't be 1000 bytes. Give at least 128MiB."),
        ({"memory": "1MB"}, "The memory of a worker can't be 1000000 bytes."),
        ({"idle_timeout": -1}, "The idle timeout can't be -1. Give seconds, or 0 for never."),
        ({"idle_timeout": float("nan")}, "The idle timeout can't be nan."),
        ({"resources": {"GPU": 0}}, "The resource 'GPU' can't be 0. Give an amount above 0."),
        ({"resources": {"GPU": "1"}}, "The resource 'GPU' can't be '1'."),
        ({"name": "../x"}, "'../x' can't be the name of a cluster."),
    ],
)
def test_a_bad_option_is_refused_before_anything_starts(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        local.up(**options)
    assert str(caught.value).startswith(sentence)
    assert registry.entries() == []


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'lots' is not a size"):
        local.up(memory="lots")


def test_a_local_cluster_does_not_take_the_name_of_an_existing_one() -> None:
    registry.put(ClusterInfo(name="office", id="1", kind="existing", address="tcp://h:8786"))
    with pytest.raises(UsageError, match="'office' is the name of the cluster at tcp://h:8786"):
        local.up("office")


def test_a_cluster_of_another_machine_is_neither_taken_nor_ended() -> None:
    info = ClusterInfo(
        name="local", id="1", kind="local", address="tls://h:1", pid=1, started="x", host="that"
    )
    registry.put(info)
    with pytest.raises(ClusterStartError, match="was started on that, which shares this directory"):
        local.up()
    with pytest.raises(Exception, match=r"was started on that. End it there"):
        local.down(info)
    assert registry.get("local") == info


def test_a_missing_interpreter_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(ClusterStartError, match="No process could be started by '/nowhere/python'"):
        local.up()
    assert [path.suffix for path in registry.folder().iterdir()] == [".lock"]


def test_relative_paths_in_the_environment_survive_the_change_of_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", "/abs"]))
    monkeypatch.setenv("NBCLOUD_RUNTIME_DIR", "run")
    environment = local._environment("abc")
    assert environment["PYTHONPATH"] == os.pathsep.join([str(tmp_path / "lib"), "/abs"])
    assert environment["NBCLOUD_RUNTIME_DIR"] == str(tmp_path / "run")
    assert environment[process.MARK] == "abc"
    rest = set(environment) - {"PYTHONPATH", "NBCLOUD_RUNTIME_DIR", process.MARK}
    assert all(environment[name] == os.environ[name] for name in rest)


@pytest.mark.parametrize(
    "address", ["http://h:1", "tcp://", "tcp://h:port", "h:8786", "tcp://h:1/x", "tcp://u@h:1", "tcp://[::1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(
        UsageError, match=r"is not the address of a scheduler. Write tcp://HOST:PORT or tls://HOST:PORT"
    ):
        existing.up(address)


def test_a_tls_scheduler_needs_certificates() -> None:
    with pytest.raises(UsageError, match="needs the client's certificates"):
        existing.up("tls://127.0.0.1:1")


def test_certificates_that_are_missing_or_wrong_are_told(tmp_path: Path) -> None:
    missing = TLSFiles(*(str(tmp_path / name) for name in ("ca", "cert", "key")))
    with pytest.raises(UsageError, match=f"There is no certificate file {tmp_path / 'ca'}"):
        existing.up("tls://127.0.0.1:1", tls=missing)
    for path in (missing.ca, missing.cert, missing.key):
        Path(path).write_text("not a certificate")
    with pytest.raises(UsageError, match="don't fit"):
        existing.up("tls://127.0.0.1:1", tls=missing)


def test_an_unknown_name_tells_which_there_are() -> None:
    with pytest.raises(
        ClusterNotFound, match=r"No cluster named 'gpu' is up; none is up. Type: %cloud up gpu"
    ):
        connect.resolve("gpu")
    registry.put(ClusterInfo(name="office", id="1", kind="existing", address="tcp://h:8786"))
    with pytest.raises(ClusterNotFound, match="there are: office") as caught:
        connect.resolve("gpu")
    assert caught.value.data["names"] == ["office"]


def test_local_is_not_started_when_that_was_not_asked_for() -> None:
    with pytest.raises(ClusterNotFound, match="No cluster named 'local' is up"):
        connect.resolve(start=False)


def test_the_cluster_by_default_is_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCLOUD_CLUSTER", "office")
    with pytest.raises(ClusterNotFound, match="No cluster named 'office'"):
        connect.resolve()


def test_an_existing_cluster_that_went_away_is_lost() -> None:
    registry.put(ClusterInfo(name="office", id="1", kind="existing", address="tcp://127.0.0.1:1"))
    with pytest.raises(
        ClusterLost, match=r"Nothing listens any more at tcp://127.0.0.1:1, the scheduler of 'office'"
    ):
        connect.resolve("office")

"""The registry on S3: a server of moto's in a process of its own, real clients, writers at once and killed ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nbcloud.errors import ModelError, ModelNotFound, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.registry import Registry
from nbcloud.models.registry.storage import Storage

pytest.importorskip("s3fs", reason="needs the extra s3")
pytest.importorskip("moto", reason="needs a server that speaks S3")
pytest.importorskip("flask_cors", reason="needs a server that speaks S3")

WRITER = """
import sys
from pathlib import Path
from nbcloud.models.registry import Registry
registry = Registry(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    registry.add(Path(sys.argv[2]), "digits")
    print("added", flush=True)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    port = free_port()
    environment = {**os.environ, "MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < end, "moto did not come up"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def root(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import fsspec

    for name, text in {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "NBCLOUD_DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, text)
    bucket = f"models-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/registry"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    from tests.bundles import onnx_file

    return onnx_file(tmp_path / "m.onnx")


def test_a_version_is_kept_on_s3_and_read_by_another_machine(root: str, path: Path, monkeypatch) -> None:
    Registry(root).add(path, "digits")
    Registry(root).set_alias("digits/1", "champion")
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(path.parent / "another machine"))
    found = Registry(root).get("digits@champion")
    assert found.path().read_bytes() == path.read_bytes()
    registry = Registry(root)
    registry.remove_alias("digits", "champion")
    registry.delete("digits/1")
    with pytest.raises(ModelNotFound):
        Registry(root).get("digits")


def test_only_one_of_many_who_write_a_name_at_once_has_it(root: str) -> None:
    storages = [Storage(root) for _ in range(8)]
    for _ in range(3):
        name = f"models/digits/log/{uuid.uuid4().hex}.json"
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(each.create, name, b"%d" % at) for at, each in enumerate(storages)]
            had = [each.result() for each in asked]
        assert had.count(True) == 1
        assert storages[0].read(name) == b"%d" % had.index(True)
    assert Storage(root).names("") == ["models"]


def test_an_answer_that_was_lost_is_no_other_writer(root: str) -> None:
    """The client sends a request again whose answer did not come; what is there then is its own."""
    storage = Storage(root)
    assert storage.create("models/a", b"mine")
    assert storage.create("models/a", b"mine")
    assert not storage.create("models/a", b"another's")


def writer(root: str, path: Path, count: int) -> subprocess.Popen[str]:
    made = subprocess.Popen(
        [sys.executable, "-c", WRITER, root, str(path), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.close()


def test_processes_that_register_at_once_lose_nothing(root: str, path: Path) -> None:
    processes = [writer(root, path, 3) for _ in range(3)]
    for process in processes:
        go(process)
    for process in processes:
        assert process.wait(120) == 0
        assert process.stdout is not None
        process.stdout.close()
    assert [each.number for each in Registry(root).versions("digits")] == list(range(1, 10))


def test_a_writer_that_is_killed_leaves_whole_versions_only(root: str, path: Path) -> None:
    process = writer(root, path, 1000)
    go(process)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "added\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    registry = Registry(root)
    found = registry.versions("digits")
    assert len(found) >= 3
    assert all(onnxfile.digest(each.path()) == each.entry.files[0].sha256 for each in found)
    assert registry.add(path, "digits").number == found[-1].number + 1


def test_a_storage_that_writes_over_what_is_there_is_refused(tmp_path: Path, monkeypatch) -> None:
    """Some that speak S3 take no notice of the condition that comes with a request."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Careless(MemoryFileSystem):
        protocol = "careless"
        store: ClassVar[dict[str, Any]] = {}

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> Any:
            return super().pipe_file(path, value, mode="overwrite", **kwargs)

    fsspec.register_implementation("careless", Careless, clobber=True)
    with pytest.raises(ModelError, match="two who write at once would undo each other"):
        Storage("careless://registry").create("models/a", b"1")
    assert not [name for name in Careless.store if "tried" in name]


def test_what_is_wrong_with_s3_is_told(root: str, path: Path, server: str, monkeypatch) -> None:
    import s3fs

    with pytest.raises(ModelError, match=r"The registry 's3://no-such-bucket/x' can't be used: .*bucket"):
        Registry("s3://no-such-bucket/x").add(path, "digits")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ModelError, match=r"can't be used: .*[Cc]onnect"):
        Registry(root).add(path, "digits")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UsageError, match="can't be reached"):
        Storage("nothing://x")

"""``up tcp://…``: what listens there is told apart, in one sentence each."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import pytest

from nbcloud.clusters import connect, existing, registry
from nbcloud.clusters.base import ClusterInfo, TLSFiles
from nbcloud.errors import ClusterNotFound, UsageError


@pytest.fixture
def server() -> Iterator[Callable[[bytes], str]]:
    """Listen, and answer each connection with some bytes and then silence; returns the address."""
    listeners: list[socket.socket] = []
    accepted: list[socket.socket] = []

    def serve(listener: socket.socket, greeting: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            connection.sendall(greeting)

    def listen(greeting: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, greeting), daemon=True).start()
        return "tcp://{}:{}".format(*listener.getsockname())

    yield listen
    for each in listeners:
        each.shutdown(socket.SHUT_RDWR)
    for each in listeners + accepted:
        each.close()


def refusal(address: str, tls: TLSFiles | None = None) -> str:
    with pytest.raises(ClusterNotFound) as caught:
        existing.up(address, tls=tls, timeout=2)
    assert registry.get(f"127.0.0.1-{address.rpartition(':')[2]}") is None
    return str(caught.value)


def test_a_port_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refusal(f"tcp://127.0.0.1:{port}").startswith(f"Nothing listens at tcp://127.0.0.1:{port}.")


def test_a_host_that_does_not_exist() -> None:
    assert "No host has the name 'nowhere.invalid'" in refusal("tcp://nowhere.invalid:8786")


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 64, b"220 smtp ready\r\n"])
def test_a_server_that_is_no_scheduler(server: Callable[[bytes], str], greeting: bytes) -> None:
    address = server(greeting)
    assert refusal(address).startswith(f"What listens at {address} does not answer as a Dask scheduler does.")


def test_a_scheduler_that_wants_tls(local_cluster: ClusterInfo) -> None:
    address = local_cluster.address.replace("tls:", "tcp:")
    assert refusal(address).startswith(
        f"The server at {address} speaks TLS only. Use {local_cluster.address}"
    )


def test_a_server_without_tls(server: Callable[[bytes], str], local_cluster: ClusterInfo) -> None:
    address = server(b"hello, hello").replace("tcp:", "tls:")
    assert refusal(address, local_cluster.tls).startswith(f"The server at {address} does not speak TLS.")


def test_certificates_of_another_ca(local_cluster: ClusterInfo, tmp_path: Path) -> None:
    security = distributed.Security.temporary()
    strangers = TLSFiles(*(str(tmp_path / name) for name in ("ca", "cert", "key")))
    Path(strangers.ca).write_text(security.tls_ca_file)
    Path(strangers.cert).write_text(security.tls_client_cert)
    Path(strangers.key).write_text(security.tls_client_key)
    assert local_cluster.tls is not None
    for tls in (strangers, replace(strangers, ca=local_cluster.tls.ca)):
        assert "and our certificates don't accept each other" in refusal(local_cluster.address, tls)


def test_a_worker_is_not_a_scheduler(local_cluster: ClusterInfo) -> None:
    address = connect.status(local_cluster)["workers"][0]["address"]
    assert refusal(address, local_cluster.tls).startswith(f"At {address} there is a Worker, not a scheduler.")


def test_a_name_that_is_taken(local_cluster: ClusterInfo) -> None:
    with pytest.raises(
        UsageError, match=f"'local' is already the name of the cluster at {local_cluster.address}"
    ):
        existing.up("tcp://127.0.0.1:1", "local")

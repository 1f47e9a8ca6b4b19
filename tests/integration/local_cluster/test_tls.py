"""Every port asks for a certificate, and no key can be read by others."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path

import distributed
import psutil
import pytest

from nbcloud.clusters import process, registry
from nbcloud.clusters.base import ClusterInfo

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are injected by POSIX signals")


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

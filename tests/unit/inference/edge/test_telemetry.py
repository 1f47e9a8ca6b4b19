"""Telemetry waits on disk, in bounded bytes, and goes when it was delivered."""

from __future__ import annotations

import http.server
import json
import resource
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcloud.errors import StoreError, UsageError
from nbcloud.inference.edge import load
from nbcloud.inference.edge.telemetry import Queue, Telemetry
from tests.bundles import SAMPLE, make


def told(queue: Queue) -> list[Any]:
    return [event for path in queue.files() for event in queue.events(path)]


def test_a_full_queue_loses_its_oldest_events(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue", limit=8000)
    for number in range(1000):
        queue.append({"number": number})
        assert sum(path.stat().st_size for path in queue.files()) <= 8000
    numbers = [event["number"] for event in told(queue)]
    assert numbers == list(range(numbers[0], 1000))
    assert len(numbers) > 300
    with pytest.raises(StoreError, match="is too large for the queue"):
        queue.append({"text": "x" * 1000})


def test_a_line_that_was_not_finished_harms_no_other(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue")
    queue.append({"number": 1})
    (path,) = queue.files()
    with path.open("ab") as file:
        file.write(b'{"number": 2, "te')
    queue.append({"number": 3})
    assert [event["number"] for event in told(queue)] == [1, 3]


def test_a_full_disk_does_not_end_the_answers(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    rows = "".join(json.dumps([[number, 2, 3, 4]]) + "\n" for number in range(250))
    command = [sys.executable, "-m", "nbcloud.inference.edge", "run", str(bundle), "-i", "-"]
    command += ["--telemetry", str(tmp_path / "queue")]
    # No file may grow: what is told of that, as of a full disk, is an error of the system's.
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
    run = subprocess.run(command, input=rows, capture_output=True, text=True, preexec_fn=limited, check=False)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 250
    (said,) = run.stderr.splitlines()
    assert "queue: File too large. Look at its disk and rights. Answers go on without." in said


def test_what_was_delivered_is_gone_and_what_was_not_stays(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue", limit=800)
    for number in range(10):
        queue.append({"number": number})
    assert len(queue.files()) > 1
    with pytest.raises(StoreError, match=r"can't be written to .*: No such file or directory. What was not"):
        queue.deliver(str(tmp_path / "nowhere"), "d1")
    assert len(told(queue)) == 10
    (tmp_path / "there").mkdir()
    assert queue.deliver(str(tmp_path / "there"), "d1") == 10
    assert queue.files() == []
    batches = [json.loads(path.read_text()) for path in sorted((tmp_path / "there").iterdir())]
    assert [event["number"] for batch in batches for event in batch["events"]] == list(range(10))
    assert {batch["device"] for batch in batches} == {"d1"}


def test_answers_go_on_while_telemetry_is_delivered(
    tmp_path: Path, receiver: tuple[str, Path, type[Receiver]]
) -> None:
    url, authority, handler = receiver
    queue = Queue(tmp_path / "queue")
    queue.append({"number": 1})
    handler.seen = staticmethod(lambda: queue.append({"number": 2}))
    assert queue.deliver(url, "d1", ca=authority) == 1
    assert [event["number"] for event in told(queue)] == [2]


@pytest.mark.parametrize("to", ["http://example.com/x", "ftp://example.com", "file:///tmp"])
def test_it_goes_by_https_only(tmp_path: Path, to: str) -> None:
    with pytest.raises(UsageError, match="is neither an https URL nor a folder"):
        Queue(tmp_path / "queue").deliver(to, "d1")


class Receiver(http.server.BaseHTTPRequestHandler):
    batches: list[Any]
    status = 200
    seen = staticmethod(lambda: None)

    def do_POST(self) -> None:
        self.seen()
        self.batches.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[str, Path, type[Receiver]]]:
    """An https server of its own authority."""
    authority, certificate, key = certificate_files(tmp_path)

    class Handler(Receiver):
        pass

    Handler.batches = []

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/telemetry", authority, Handler
        server.shutdown()
        thread.join()


def certificate_files(folder: Path) -> tuple[Path, Path, Path]:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, None)
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "cert.pem", folder / "key.pem"


def test_delivery_by_https(tmp_path: Path, receiver: tuple[str, Path, type[Receiver]]) -> None:
    url, authority, handler = receiver
    queue = Queue(tmp_path / "queue")
    queue.append({"number": 1})
    with pytest.raises(StoreError, match=r"can't be delivered to https://127.0.0.1:.*certificate"):
        queue.deliver(url, "d1")
    handler.status = 503
    with pytest.raises(StoreError, match="503"):
        queue.deliver(url, "d1", ca=authority)
    assert len(told(queue)) == 1
    handler.status = 200
    assert queue.deliver(url, "d1", ca=authority) == 1
    assert queue.files() == []
    # Both tries carry the same name, so that the receiver can drop one.
    assert handler.batches[0] == handler.batches[1]


def test_what_is_seen_of_a_model(tmp_path: Path) -> None:
    model = load(make(tmp_path))
    queue = Queue(tmp_path / "queue")
    with Telemetry(queue, model) as telemetry:
        for _ in range(150):
            telemetry.observe({"x": SAMPLE}, 0.002)
        telemetry.observe({"x": np.full((1, 4), 50.0)}, 0.1)
        telemetry.disagreement({"x": SAMPLE}, ["rose"], ["lily"])
    first, second, third = told(queue)
    assert (first["event"], first["count"], first["drift"]["x"]) == ("answers", 100, 0)
    assert first["milliseconds"]["median"] == 2
    assert (second["event"], second["found"], second["expected"]) == ("disagreement", ["rose"], ["lily"])
    assert third["count"] == 51
    assert third["drift"]["x"] > 0.5

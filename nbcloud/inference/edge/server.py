"""An HTTP server on a device, for the Open Inference Protocol."""

from __future__ import annotations

import contextlib
import hmac
import http.server
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from nbcloud.errors import UsageError
from nbcloud.inference.edge.model import EdgeModel
from nbcloud.inference.edge.protocol import Answer, Protocol

_LOOPBACK = ("127.0.0.1", "localhost")
LIMIT = 16 * 2**20
"""Bytes of a request."""
_PATIENCE = 30.0
"""Seconds that a request may take to arrive, and an answer to be fetched."""


def server(
    model: EdgeModel,
    host: str,
    port: int,
    *,
    token: str = "",
    limit: int = LIMIT,
    patience: float = _PATIENCE,
) -> Server:
    """A server that is bound, and answers once ``serve_forever`` is called.

    Parameters
    ----------
    port : int
        0: one that is free.
    token : str
        What requests must bear (``Authorization: Bearer …``); needed for any address but this machine's own.
    patience : float
        Seconds that a request may take to arrive, and an answer to be fetched.

    Raises
    ------
    UsageError
        When others could reach it and there is no token, or the address can't be had.
    """
    if host not in _LOOPBACK and not token:
        raise UsageError(
            f"{host} can be reached by others, so that a token is needed.",
            "Put one into a file, and give --token-file FILE.",
        )

    class Handler(_Handler):
        protocol = Protocol(model)

    Handler.token, Handler.limit, Handler.timeout = token, limit, patience
    try:
        return Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or error
        raise UsageError(f"{host}:{port} can't be listened on: {told}.", "Give another --port.") from None


class Server(http.server.ThreadingHTTPServer):
    """A thread for each connection; who sends a request too slowly holds none for long."""

    daemon_threads = True
    request_queue_size = 128  # of 5, more who ask at once would wait for seconds to be let in

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self.arriving: dict[socket.socket, float] = {}
        """Until when the request of each connection must have arrived."""
        super().__init__(address, handler)

    def service_actions(self) -> None:
        """End what is late; called in each turn of ``serve_forever``."""
        for connection, until in list(self.arriving.items()):
            if time.monotonic() > until:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is wrong here when the other side is gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol: Protocol
    token = ""
    limit = LIMIT
    timeout = _PATIENCE
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._guarded(lambda: self.protocol.get(self._asked()))

    def do_POST(self) -> None:
        self._guarded(lambda: self._post(self._asked()))

    def handle_one_request(self) -> None:
        self.server.arriving[self.connection] = time.monotonic() + self.timeout
        try:
            super().handle_one_request()
        finally:
            self.server.arriving.pop(self.connection, None)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of requests that are none of HTTP, and of verbs that are not served."""
        self.request_version = self.protocol_version  # else its own, which may be none
        told = message or explain or http.HTTPStatus(code).phrase
        self._tell(code, {"error": f"{told.rstrip('.')}."})

    def log_message(self, *_: Any) -> None:
        """Requests are nobody's business."""

    def _asked(self) -> str:
        return unquote(self.path.partition("?")[0]).rstrip("/")

    def _guarded(self, answer: Callable[[], Answer]) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host") or ""
        given = (self.headers.get("Authorization") or "").encode("utf-8", "replace")
        if self.token and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            self._tell(401, {"error": "A token is needed: Authorization: Bearer TOKEN."})
        # A web page in a browser on this machine may have its own name lead here.
        elif not self.token and host not in _LOOPBACK:
            self._tell(403, {"error": "Ask for 127.0.0.1 or localhost."})
        else:
            self._tell(*answer())

    def _post(self, path: str) -> Answer:
        length = self.headers.get("Content-Length", "")
        # Beside an encoding the length would be another one.
        if not re.fullmatch("[0-9]{1,18}", length) or "Transfer-Encoding" in self.headers:
            return 411, {"error": "The request must say its Content-Length."}
        if int(length) > self.limit:
            return 413, {"error": f"The request has {int(length):,} bytes, and {self.limit:,} is the most."}
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            return 400, {"error": "The request is cut off."}
        self.server.arriving.pop(self.connection, None)
        return self.protocol.post(path, content)

    def _tell(self, status: int, document: Any) -> None:
        content = json.dumps(document, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status != 200:  # what was sent with it may not have been read
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

"""The Open Inference Protocol (v2, JSON) on a device: health, metadata, infer."""

from __future__ import annotations

import hmac
import http.server
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np

from nbcloud.errors import NbcloudError, UsageError
from nbcloud.inference.edge.model import EdgeModel
from nbcloud.models.signature import TEXT, Tensor

_LOOPBACK = ("127.0.0.1", "localhost")
LIMIT = 16 * 2**20
"""Bytes of a request."""
_PATIENCE = 30

_TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    TEXT: "BYTES",
    **{f"{sign}int{size}": f"{sign.upper()}INT{size}" for sign in ("", "u") for size in (8, 16, 32, 64)},
}
_DTYPES = {datatype: dtype for dtype, datatype in _TYPES.items() if dtype not in (TEXT, "bfloat16")}

_FORM = 'It is as {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.5]}]}.'

Answer = tuple[int, Any]
"""A status of HTTP and what is told as JSON."""


def server(
    model: EdgeModel, host: str, port: int, *, token: str = "", limit: int = LIMIT
) -> http.server.ThreadingHTTPServer:
    """A server that is bound, and answers once ``serve_forever`` is called.

    Parameters
    ----------
    port : int
        0: one that is free.
    token : str
        What requests must bear (``Authorization: Bearer …``); needed for any address but this machine's own.

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
        protocol = _Protocol(model)

    Handler.token, Handler.limit = token, limit
    try:
        made = http.server.ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} can't be listened on: {error.strerror}.", "Give another --port."
        ) from None
    made.daemon_threads = True
    return made


class _Protocol:
    """What is answered to which path."""

    def __init__(self, model: EdgeModel) -> None:
        self._model = model
        manifest = model.manifest
        self._name, self._version = manifest.name, manifest.version
        self._one_at_a_time = threading.Lock()

    def get(self, path: str) -> Answer:
        """Health and metadata."""
        if path == "/v2":
            return 200, {"name": "nbcloud-edge", "version": self._version, "extensions": []}
        if path == "/v2/health/live":
            return 200, {"live": True}
        if path == "/v2/health/ready":
            return 200, {"ready": True}
        kind = self._about(path)
        if kind == "":
            return 200, self._metadata()
        if kind == "ready":
            return 200, {"name": self._name, "ready": True}
        return self._unknown(path)

    def post(self, path: str, content: bytes) -> Answer:
        """An inference."""
        if self._about(path) != "infer":
            return self._unknown(path)
        try:
            return 200, self._infer(_request(content))
        except NbcloudError as error:
            return 400, {"error": str(error)}

    def _about(self, path: str) -> str | None:
        """What is asked of the model; None where the path isn't about it."""
        for base in (f"/v2/models/{self._name}/versions/{self._version}", f"/v2/models/{self._name}"):
            if path == base or path.startswith(f"{base}/"):
                return path[len(base) :].strip("/")
        return None

    def _unknown(self, path: str) -> Answer:
        return 404, {"error": f"There is nothing at {path[:200]}; the model is at /v2/models/{self._name}."}

    def _metadata(self) -> Any:
        return {
            "name": self._name,
            "versions": [self._version],
            "platform": "onnxruntime_onnx",
            "inputs": [_told(each) for each in self._model.takes],
            "outputs": [_told(each) for each in self._model.signature.outputs],
        }

    def _infer(self, request: Any) -> Any:
        feeds = {each["name"]: _array(each) for each in request["inputs"]}
        with self._one_at_a_time:  # a device has one of everything
            answers = self._model.predict(feeds)
        wanted = [each["name"] for each in request["outputs"]] or list(answers)
        for name in wanted:
            if name not in answers:
                raise UsageError(f"The model has no output {name!r}.", f"It has: {', '.join(answers)}.")
        told = {"model_name": self._name, "model_version": self._version}
        if "id" in request:
            told["id"] = str(request["id"])
        return {**told, "outputs": [_written(name, answers[name]) for name in wanted]}


def _told(tensor: Tensor) -> Any:
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "datatype": _TYPES.get(tensor.dtype, "BYTES"), "shape": shape}


def _request(content: bytes) -> dict[str, Any]:
    """A request of the protocol's form; what its tensors hold is not looked at yet."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise UsageError("The request is no JSON.") from None
    if not isinstance(document, dict):
        raise UsageError("The request is no JSON object.", _FORM)
    inputs, outputs = document.get("inputs"), document.get("outputs") or []
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        missing = "inputs" if not isinstance(inputs, list) else "outputs"
        raise UsageError(f"The request has no list of {missing}.", _FORM)
    for each in outputs:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise UsageError("An output of the request has no name.", _FORM)
    for each in inputs:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise UsageError("An input of the request has no name.", _FORM)
        for key, kind in (("datatype", str), ("shape", list), ("data", list)):
            if not isinstance(each.get(key), kind):
                raise UsageError(f"The input {each['name']!r} of the request has no {key}.", _FORM)
        if not all(type(size) is int and 0 <= size < 2**31 for size in each["shape"]):
            raise UsageError(f"The shape of the input {each['name']!r} is none.", _FORM)
    return {**document, "inputs": inputs, "outputs": outputs}


def _array(each: Mapping[str, Any]) -> Any:
    """The array of an input."""
    name, datatype, shape = each["name"], each["datatype"], each["shape"]
    if datatype not in _DTYPES and datatype != "BYTES":
        raise UsageError(f"There is no datatype {datatype!r}.", f"There are: {', '.join(_DTYPES)}, BYTES.")
    try:
        array = np.array(each["data"], dtype=_DTYPES.get(datatype, object))
        if array.dtype.kind in "iub" and not np.array_equal(array, np.array(each["data"])):
            raise ValueError  # fractions would be cut off
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise UsageError(f"The data of the input {name!r} are not of the datatype {datatype}.") from None
    try:
        return array.reshape(shape)
    except ValueError:
        raise UsageError(f"The input {name!r} has {array.size} values, and not the shape {shape}.") from None


def _written(name: str, value: Any) -> Any:
    array = np.asarray(value)
    datatype = _TYPES.get(array.dtype.name, "BYTES")
    plain = array.ravel().tolist()
    if datatype == "BYTES":
        plain = [str(each) for each in plain]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": plain}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol: _Protocol
    token = ""
    limit = LIMIT
    timeout = _PATIENCE
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._guarded(lambda: self.protocol.get(self._asked()))

    def do_POST(self) -> None:
        self._guarded(lambda: self._post(self._asked()))

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
        if not length.isdigit():
            return 411, {"error": "The request must say its Content-Length."}
        if int(length) > self.limit:
            return 413, {"error": f"The request has {int(length):,} bytes, and {self.limit:,} is the most."}
        return self.protocol.post(path, self.rfile.read(int(length)))

    def _tell(self, status: int, document: Any) -> None:
        content = json.dumps(_plain(document)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status != 200:  # what was sent with it may not have been read
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(content)


def _plain(document: Any) -> Any:
    """NaN and infinity are no JSON: null, as other servers have it."""
    if isinstance(document, float) and not np.isfinite(document):
        return None
    if isinstance(document, dict):
        return {key: _plain(value) for key, value in document.items()}
    return [_plain(each) for each in document] if isinstance(document, list) else document

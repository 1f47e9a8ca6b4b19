"""The Open Inference Protocol on a device."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from nbcloud.errors import UsageError
from nbcloud.inference.edge import EdgeModel, load
from nbcloud.inference.edge.protocol import _written
from nbcloud.inference.edge.server import server
from nbcloud.models.signature import Tensor
from tests.bundles import SAMPLE, make, same


class Ask(Protocol):
    """Asks a server."""

    port: int

    def __call__(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]: ...


@pytest.fixture
def model(tmp_path: Path) -> EdgeModel:
    return load(make(tmp_path))


@pytest.fixture
def serving(model: EdgeModel) -> Iterator[Callable[..., Ask]]:
    """Starts a server; returns what asks it."""
    running = []

    def start(host: str = "127.0.0.1", **options: Any) -> Ask:
        made = server(options.pop("model", model), host, 0, **options)
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        running.append((made, thread))

        def ask(path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", made.server_port, timeout=60)
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", path, content, headers or {})
            answer = connection.getresponse()
            found = json.loads(answer.read())
            connection.close()
            return answer.status, found

        ask.port = made.server_port  # type: ignore[attr-defined]
        return ask

    yield start
    for made, thread in running:
        made.shutdown()
        thread.join()
        made.server_close()


def infer(values: Any = SAMPLE, **changed: Any) -> dict[str, Any]:
    values = np.asarray(values)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
    return {"inputs": [{**tensor, **changed}]}


def test_health_and_metadata(serving: Callable[..., Ask]) -> None:
    ask = serving()
    assert ask("/v2/health/live") == (200, {"live": True})
    assert ask("/v2/health/ready") == (200, {"ready": True})
    assert ask("/v2/models/flowers/ready") == (200, {"name": "flowers", "ready": True})
    status, metadata = ask("/v2/models/flowers/versions/1")
    assert status == 200
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    assert ask("/v2/models/roses")[0] == 404


def test_inference(serving: Callable[..., Ask], model: EdgeModel) -> None:
    ask = serving()
    status, answer = ask("/v2/models/flowers/infer", {**infer(), "id": "7"})
    assert (status, answer["id"], answer["model_name"], answer["model_version"]) == (200, "7", "flowers", "1")
    outputs = {each["name"]: each for each in answer["outputs"]}
    expected = model.predict(SAMPLE)
    found = np.reshape(outputs["probabilities"]["data"], outputs["probabilities"]["shape"])
    np.testing.assert_allclose(found, expected["probabilities"], rtol=1e-6)
    assert outputs["label"] == {
        "name": "label", "datatype": "BYTES", "shape": [6], "data": expected["label"].tolist()
    }  # fmt: skip
    status, answer = ask("/v2/models/flowers/infer", {**infer(), "outputs": [{"name": "label"}]})
    assert [each["name"] for each in answer["outputs"]] == ["label"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (b"nothing", "The request is no JSON."),
        (b"\xff", "The request is no JSON."),
        (b"[" * 100_000, "The request is no JSON."),
        (b"[]", "The request is no JSON object."),
        ({}, "The request has no list of inputs. It is as {"),
        ({"inputs": 3}, "The request has no list of inputs."),
        ({**infer(), "outputs": 3}, "The request has no list of outputs."),
        ({**infer(), "outputs": [3]}, "An output of the request has no name."),
        ({"inputs": [3]}, "An input of the request has no name."),
        ({"inputs": [{"name": "x", "datatype": "FP32"}]}, "The input 'x' of the request has no shape."),
        (infer(datatype="INT8"), "The data of the input 'x' are not of the datatype INT8."),
        (infer(data=[[1], [1, 2]]), "The data of the input 'x' are not of the datatype FP32."),
        ({"inputs": infer()["inputs"] * 2}, "The request has the input 'x' twice."),
        (infer(name="y"), "The model has no input 'y'. It has: x."),
        (infer(shape=[2, 4]), "The input 'x' has 24 values, and not the shape [2, 4]."),
        (infer(shape=[-6, -4]), "The shape of the input 'x' is none."),
        (infer([1.0], shape=[1] * 99), "The input 'x' has 1 values, and not the shape [1, 1,"),
        (infer(shape=[True, 24]), "The shape of the input 'x' is none."),
        (infer([[1e39, 1, 2, 3]]), "The input 'x' has 1e+39, which is too large for FP32."),
        (infer([[1, 1e39, 2, 3]], datatype="FP64"), "has values that do not fit into float32"),
        (infer([["1.5", "2", "3", "4"]]), "The data of the input 'x' are not of the datatype FP32."),
        (infer(datatype="FP31"), "There is no datatype 'FP31'."),
        (infer(SAMPLE[:, :2]), "The input 'x' has the shape [6, 2]."),
        ({**infer(), "outputs": [{"name": "z"}]}, "The model has no output 'z'."),
    ],
    ids=lambda value: "" if isinstance(value, bytes | dict) else value,
)
def test_what_is_wrong_is_told(serving: Callable[..., Ask], request_: Any, sentence: str) -> None:
    status, answer = serving()("/v2/models/flowers/infer", request_)
    assert status == 400
    assert sentence in answer["error"]


def test_a_request_that_is_too_large(serving: Callable[..., Ask]) -> None:
    ask = serving(limit=1000)
    status, answer = ask("/v2/models/flowers/infer", infer(np.zeros((100, 4))))
    assert (status, answer["error"].endswith("and 1,000 is the most.")) == (413, True)
    assert ask("/v2/models/flowers/infer", b"", {"Content-Length": "x"})[0] in {400, 411}


def test_what_is_no_number_is_told_beside_the_numbers(serving: Callable[..., Ask], tmp_path: Path) -> None:
    tensor = Tensor("x", "float32", ("n", 2))
    model = load(same(tmp_path, tensor, np.zeros((1, 2), np.float32)))
    found = model.predict(np.array([[np.nan, np.inf], [1, -np.inf]], np.float32))["y"]
    assert _written("y", found) == {
        "name": "y",
        "datatype": "FP32",
        "shape": [2, 2],
        "data": [None, None, 1.0, None],
        "parameters": {"non_finite": "NaN Infinity -Infinity"},
    }
    answer = serving(model=model)("/v2/models/same/infer", infer([[1, 2]], data=[None, 2.5]))[1]
    assert answer["outputs"][0]["data"] == [None, 2.5]
    assert answer["outputs"][0]["parameters"] == {"non_finite": "NaN"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"DELETE /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v2 HTTP/9.9\r\n\r\n", 505),
        (b"GET /" + b"v" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"POST /v2/models/flowers/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: \xb2\r\n\r\n", 411),
        (
            b"POST /v2/models/flowers/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n{}",
            411,
        ),
        (b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 411),
    ],
    ids=["verb", "nonsense", "version", "long", "two", "chunked", "huge"],
)
def test_what_is_no_request_is_told_as_json(serving: Callable[..., Ask], sent: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", serving().port), 60) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
        assert isinstance(json.loads(answer.read())["error"], str)


def test_who_asks_too_slowly_is_left(serving: Callable[..., Ask]) -> None:
    ask = serving(patience=0.5)
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", ask.port), 60) as connection:
        connection.settimeout(0.1)
        while time.monotonic() - started < 30:
            try:
                connection.sendall(b"x")  # each byte within the time, and never a whole request
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - started < 10
    assert ask("/v2/health/live")[0] == 200


def test_many_may_ask_at_once(serving: Callable[..., Ask]) -> None:
    ask = serving()
    idle = [socket.create_connection(("127.0.0.1", ask.port)) for _ in range(100)]
    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(lambda _: ask("/v2/models/flowers/infer", infer())[0], range(200)))
    assert statuses == [200] * 200
    for connection in idle:
        connection.close()


def test_another_address_needs_a_token(serving: Callable[..., Ask], model: EdgeModel) -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0 can be reached by others, so that a token is needed"):
        server(model, "0.0.0.0", 0)
    ask = serving("0.0.0.0", token="secret")
    assert ask("/v2/models/flowers")[0] == 401
    assert ask("/v2/models/flowers/infer", infer(), {"Authorization": "Bearer wrong"})[0] == 401
    assert ask("/v2/models/flowers/infer", infer(), {"Authorization": "Bearer secret"})[0] == 200


def test_a_web_page_can_not_ask_under_its_own_name(serving: Callable[..., Ask]) -> None:
    assert serving()("/v2", None, {"Host": "evil.example:80"}) == (
        403,
        {"error": "Ask for 127.0.0.1 or localhost."},
    )


def test_a_port_that_is_none(model: EdgeModel) -> None:
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:99999 can't be listened on: .* Give another --port"):
        server(model, "127.0.0.1", 99999)


def test_a_port_that_is_taken(model: EdgeModel) -> None:
    with (
        server(model, "127.0.0.1", 0) as first,
        pytest.raises(UsageError, match="can't be listened on: Address"),
    ):
        server(model, "127.0.0.1", first.server_port)

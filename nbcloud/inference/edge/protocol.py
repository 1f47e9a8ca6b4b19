"""What the Open Inference Protocol (v2, JSON) answers: health, metadata, inferences."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from nbcloud.errors import NbcloudError, UsageError
from nbcloud.inference.edge.model import EdgeModel
from nbcloud.models.signature import TEXT, Tensor

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


class Protocol:
    """What is answered to which path."""

    def __init__(self, model: EdgeModel) -> None:
        self._model = model
        manifest = model.manifest
        self._name, self._version = manifest.name, manifest.version
        self._one_at_a_time = threading.Lock()
        known = {each.name: each for each in model.signature.outputs}
        # Labels, and what else comes after the graph, are outputs, too.
        self._outputs = [
            known.get(name) or Tensor(name, np.asarray(value).dtype.name, ("size",) * np.ndim(value))
            for name, value in model.predict(model.golden_inputs).items()
        ]

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
        except MemoryError:
            return 500, {"error": "The memory does not suffice for this request."}

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
            "outputs": [_told(each) for each in self._outputs],
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
    seen: set[str] = set()
    for each in inputs:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise UsageError("An input of the request has no name.", _FORM)
        if each["name"] in seen:
            raise UsageError(f"The request has the input {each['name']!r} twice.")
        seen.add(each["name"])
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
        given = np.array(each["data"], dtype=None if datatype in _DTYPES else object)
        if given.dtype.kind in "US":
            raise ValueError  # texts, which numpy would read as numbers
        with np.errstate(over="ignore", invalid="ignore"):
            array = given.astype(_DTYPES.get(datatype, object))
        if array.dtype.kind in "iub" and not np.array_equal(array, given):
            raise ValueError  # fractions would be cut off
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise UsageError(f"The data of the input {name!r} are not of the datatype {datatype}.") from None
    if array.dtype.kind == "f" and np.isinf(array).any():
        first = given[np.isinf(array)][0]
        raise UsageError(f"The input {name!r} has {first}, which is too large for {datatype}.")
    try:
        return array.reshape(shape)
    except ValueError:
        raise UsageError(f"The input {name!r} has {array.size} values, and not the shape {shape}.") from None


def _written(name: str, value: Any) -> Any:
    """An output; NaN and infinity, which JSON has not, are null in it, and told in order beside it."""
    array = np.asarray(value)
    datatype = _TYPES.get(array.dtype.name, "BYTES")
    plain = array.ravel().tolist()
    told = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": plain}
    if datatype == "BYTES":
        told["data"] = [str(each) for each in plain]
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        told["data"] = [each if math.isfinite(each) else None for each in plain]
        lost = [each for each in plain if not math.isfinite(each)]
        words = ["NaN" if math.isnan(each) else "Infinity" if each > 0 else "-Infinity" for each in lost]
        told["parameters"] = {"non_finite": " ".join(words)}  # the protocol's parameters are texts
    return told

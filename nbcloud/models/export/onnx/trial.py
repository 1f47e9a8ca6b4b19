"""The first run of a model from elsewhere, in a process that may crash: ``python -m …onnx.trial``.

It loads numpy, onnx and onnxruntime only. Each line that it prints is a step that went well.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ExportError
from nbcloud.models import onnxfile
from nbcloud.models.export.onnx.answers import by_reference
from nbcloud.models.signature import Feeds

_LIMIT = 120.0
"""Seconds for the first run, and as many for the first by the reference implementation."""
_SHARE = 0.8
"""Of the memory that is free: what the trial may take."""


@dataclass(frozen=True)
class Tried:
    """How the first run went.

    Parameters
    ----------
    seconds : float
        Of the reference implementation; infinite where it was ended for taking too long.
    why_not : str
        Why the reference implementation can't compute the model; empty where it can.
    """

    seconds: float
    why_not: str


def run(path: Path, feeds: Feeds, defined: Any = None) -> Tried:
    """Load a model and have it answer, by onnxruntime and then by ONNX's reference implementation.

    Parameters
    ----------
    defined : onnx.ModelProto, optional
        The model as the reference implementation is to compute it.

    Raises
    ------
    ExportError
        When onnxruntime does not load it, does not answer, or does not live through it.
    """
    with tempfile.TemporaryDirectory(prefix="nbcloud-trial-") as folder:
        file, said = Path(folder) / "feeds.npz", Path(folder) / "said"
        text = {name: value.astype(str) if value.dtype == object else value for name, value in feeds.items()}
        np.savez(file, **{f"feed:{name.replace('/', '|')}": value for name, value in text.items()})
        reference = ""
        if defined is not None:
            reference = str(Path(folder) / "defined.onnx")
            onnxfile.save(defined, Path(reference))
        names = json.dumps(list(feeds))
        command = [sys.executable, "-m", __name__, str(path), str(file), names, reference]
        late = False
        with said.open("wb") as out:
            try:
                done = subprocess.run(
                    command, stdout=out, stderr=subprocess.PIPE, timeout=2 * _LIMIT, check=False
                )
                code, error = done.returncode, done.stderr.decode(errors="replace")
            except subprocess.TimeoutExpired:
                code, error, late = -1, "", True
        steps = [json.loads(line) for line in said.read_text().splitlines() if line.startswith("{")]
    reached = {key: value for step in steps for key, value in step.items()}
    if "refused" in reached:
        if "loaded" in reached:
            raise ExportError(
                f"onnxruntime does not answer the sample: {reached['refused']}.",
                "Give a sample that the model answers, or export the model again.",
            )
        if "locale" in reached["refused"]:
            raise ExportError(
                f"The model's texts need a locale that is not on this machine: {reached['refused']}.",
                'Export it again with one that is everywhere, in skl2onnx: options={step: {"locale": "C"}}',
            )
        raise ExportError(
            f"onnxruntime does not load the model: {reached['refused']}.",
            "Export it again with an opset and operators that this onnxruntime has, or type: "
            "pip install -U onnxruntime",
        )
    if "answered" not in reached:
        doing = "answers the sample" if "loaded" in reached else "loads the model"
        how = (
            f"did not end within {2 * _LIMIT:.0f} s"
            if late
            else f"ended (signal {-code})"
            if code < 0
            else f"failed: {(error.strip().splitlines() or [str(code)])[-1][:200]}"
        )
        raise ExportError(
            f"onnxruntime {how} while it {doing}.",
            "The model asks for more than this machine has, or is damaged: export it again.",
        )
    if not reference or "reference" in reached:
        return Tried(float(reached.get("reference", 0.0)), "")
    if late:
        return Tried(float("inf"), "")
    return Tried(0.0, str(reached.get("reference_refused", f"it ended with {code}")))


def _main(path: str, feeds: str, names: str, reference: str) -> None:
    _limit_memory()
    import onnxruntime

    with np.load(feeds, allow_pickle=False) as found:
        given = {name: found[f"feed:{name.replace('/', '|')}"] for name in json.loads(names)}
    given = {
        name: value.astype(object) if value.dtype.kind == "U" else value for name, value in given.items()
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        _say(loaded=True)
        session.run(None, given)
    except Exception as error:  # noqa: BLE001 - onnxruntime has many, of no common kind
        _say(refused=_plain(error))
        return
    _say(answered=True)
    if not reference:
        return
    first = {name: value[:1] if np.ndim(value) else value for name, value in given.items()}
    try:
        answers = by_reference(Path(reference))
        try:
            answers(first)
            asked, rows = first, max((len(value) for value in given.values() if np.ndim(value)), default=1)
        except Exception:  # noqa: BLE001 - the first dimension need not be the batch
            asked, rows = given, 1
        began = time.perf_counter()
        answers(asked)
        _say(reference=(time.perf_counter() - began) * rows)
    except BaseException as error:  # noqa: BLE001 - what it can't do is told, whatever it is
        _say(reference_refused=_plain(error))


def _limit_memory() -> None:
    """A model that asks for more than there is gets an error, and the machine goes on."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        import psutil

        most = int(psutil.virtual_memory().available * _SHARE)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _plain(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, NotImplementedError) and not lines:
        text = "an operator is not implemented"
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"^Load model from \S+ failed: ?", "", text)
    text = re.sub(r"/onnxruntime_src/\S+ [^(]*\([^)]*\) ", "", text)
    return text[:300].rstrip(".")


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])

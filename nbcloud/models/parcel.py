"""An export that is made elsewhere and comes home: plain values, arrays of bytes, nothing to unpickle."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.models import onnxfile
from nbcloud.models.export import Options, export

_FILE = "model.onnx"


def pack(model: Any, sample: Any, name: str, options: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Export where the model lives; returns the files' bytes by their names.

    Raises
    ------
    ExportError, VerificationError
        As `nbcloud.models.export.export`; what a failed comparison saw stays on that machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="nbcloud-export-"))
    path = folder / _FILE
    export(model, sample, name=name, path=path, options=Options(**options), progress=_say, **facts)
    made = onnxfile.files(path)
    files = {file.name: np.fromfile(file, np.uint8) for file in made}
    for file in made:
        file.unlink()
    folder.rmdir()
    return files


def unpack(files: Mapping[str, Any], folder: Path) -> Path:
    """Write the files of `pack` into a folder; returns the model's."""
    for name, data in files.items():
        (folder / Path(name).name).write_bytes(memoryview(np.ascontiguousarray(data)))
    return folder / _FILE


def _say(phase: str) -> None:
    print(f"\r\x1b[K{phase}", end="", flush=True)

"""An export that is made elsewhere and comes home: plain values, arrays of bytes, nothing to unpickle."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import VerificationError
from nbcloud.models import onnxfile
from nbcloud.models.export import Options, export

_FILE = "model.onnx"


def pack(
    model: Any, sample: Any, name: str, options: Mapping[str, Any], files: dict[str, Any], **facts: Any
) -> None:
    """Export where the model lives; ``files`` gets the files' bytes by their names.

    Raises
    ------
    ExportError, VerificationError
        As `nbcloud.models.export.export`; ``files`` has what a failed comparison saw.
    """
    with tempfile.TemporaryDirectory(prefix="nbcloud-export-") as name_of_folder:
        folder = Path(name_of_folder)
        path, evidence = folder / _FILE, folder / "evidence"
        more: dict[str, Any] = {"evidence": evidence, "progress": _say, **facts}
        try:
            export(model, sample, name=name, path=path, options=Options(**options), **more)
        except VerificationError as error:
            files.update({each.name: np.fromfile(each, np.uint8) for each in evidence.iterdir()})
            raise VerificationError(error.message, "What it saw comes home.", **error.data) from None
        files.update({each.name: np.fromfile(each, np.uint8) for each in onnxfile.files(path)})


def unpack(files: Mapping[str, Any], folder: Path) -> Path:
    """Write the files of `pack` into a folder; returns the model's."""
    for name, data in files.items():
        (folder / Path(name).name).write_bytes(memoryview(np.ascontiguousarray(data)))
    return folder / _FILE


def _say(phase: str) -> None:
    print(f"\r\x1b[K{phase}", end="", flush=True)

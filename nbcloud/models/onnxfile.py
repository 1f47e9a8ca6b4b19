"""ONNX files: read, changed, written, with large weights beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SINGLE_FILE = 2**31 - 2**20
"""Bytes above which protobuf can't hold the weights in one file."""


def load(path: Path, *, weights: bool = True) -> Any:
    """The model of a file; without its external weights when only the graph matters."""
    import onnx

    return onnx.load(str(path), load_external_data=weights)


def save(model: Any, path: Path) -> None:
    """Write a model: one file, or with its weights in ``<name>.data`` beside it when they are too large."""
    import onnx

    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    if not is_large(model):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data.name
    )


def is_large(model: Any) -> bool:
    """Whether its weights need a file of their own."""
    return bool(model.ByteSize() >= _SINGLE_FILE)


def files(path: Path) -> list[Path]:
    """The file and those that it keeps its weights in."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    locations: set[str] = set()
    for tensor in _get_all_tensors(load(path, weights=False)):
        if uses_external_data(tensor):
            locations.update(entry.value for entry in tensor.external_data if entry.key == "location")
    return [path, *(path.with_name(name) for name in sorted(locations))]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_properties(path: Path, properties: dict[str, str]) -> None:
    """Replace these keys of a file's metadata; its weights are left as they are."""
    model = load(path, weights=False)
    kept = {each.key: each.value for each in model.metadata_props} | properties
    del model.metadata_props[:]
    for key, value in sorted(kept.items()):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString(deterministic=True))


def with_outputs(model: Any, names: Iterable[str]) -> Any:
    """A copy that also gives these values from its inside."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {output.name for output in copy.graph.output}
    for name in names:
        if name not in have:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy

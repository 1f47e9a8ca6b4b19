"""Files of models: ``.keras``, ``.h5``, SavedModels. Nothing in them is unpickled or run as Python."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbcloud import extras
from nbcloud.errors import ExportError

_SUFFIXES = (".keras", ".h5", ".hdf5")


def is_one(path: Path) -> bool:
    """Whether a path is called, or looks, like a model of Keras or TensorFlow."""
    return path.suffix.lower() in _SUFFIXES or (path / "saved_model.pb").is_file()


def load(path: Path) -> Any:
    """The model of a file.

    Raises
    ------
    ExportError
        When there is none, it can't be read, or it has Python code in it.
    """
    if not path.exists():
        raise ExportError(f"There is no file {path}.", "Look at its path.")
    extras.check("tensorflow", "to read files of Keras and TensorFlow models")
    # TensorFlow reads it when it is imported, and is not for people.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if path.is_dir():
        import tensorflow as tf

        return tf.saved_model.load(str(path))
    _refuse_code(path)
    import keras

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        told = str(error).strip().split("\n")[0].rstrip(".")
        own = re.search(r"(?:Could not locate class|Unknown layer:) '(\w+)'", str(error))
        if own:
            raise ExportError(
                f"{path.name} has a layer of your own, {own[1]}, which is not known here.",
                "Import the module that registers it (keras.saving.register_keras_serializable) first, "
                "or export the model itself instead of its file.",
            ) from error
        raise ExportError(
            f"{path.name} can't be read: {told[:300]}.",
            "Save the whole model again: model.save('model.keras')",
        ) from error


def _refuse_code(path: Path) -> None:
    for layer in _layers(_config(path)):
        if layer.get("class_name") == "Lambda":
            name = (layer.get("config") or {}).get("name", "")
            raise ExportError(
                f"{path.name} has the Lambda layer {name!r}: Python code, which reading the file would run.",
                "If you trust it, load it yourself (keras.saving.load_model with safe_mode=False) "
                "and export the model instead of its file.",
            )


def _config(path: Path) -> Any:
    """What the file says of the model's layers."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise ExportError(
                    f"{path.name} has weights only, no model.",
                    "Export the model itself, or save it whole: model.save('model.keras')",
                )
            told = file.attrs["model_config"]
            return json.loads(told.decode() if isinstance(told, bytes) else told)
    except (OSError, KeyError, ValueError) as error:
        raise ExportError(
            f"{path.name} is no file of a Keras model ({error}).",
            "Save it with: model.save('model.keras')",
        ) from None


def _layers(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        yield config
        config = list(config.values())
    if isinstance(config, list):
        for each in config:
            yield from _layers(each)

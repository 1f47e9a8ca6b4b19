"""The door to optional packages: whoever needs one asks here first."""

from __future__ import annotations

import importlib.util

from nbcloud.errors import MissingExtra

_EXTRAS = {
    "matplotlib": "sklearn",
    "sklearn": "sklearn",
    "skl2onnx": "sklearn",
    "onnxmltools": "boosting",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "torch",
    "tf2onnx": "tensorflow",
    "tensorflow": "tensorflow",
    "dask_kubernetes": "kubernetes",
    "mlflow": "mlflow",
    "papermill": "batch",
    "optuna": "optuna",
}
"""The extra that brings each package."""


def check(package: str, purpose: str) -> None:
    """Refuse to go on without an optional package.

    Parameters
    ----------
    package : str
        As it is imported.
    purpose : str
        What needs it: ``"to train the demonstration's model"``.

    Raises
    ------
    MissingExtra
        Names the pip command that brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(
            f"{package} is needed {purpose}, and is not installed.",
            f'Type: pip install "nbcloud[{_EXTRAS[package]}]"',
            package=package,
        )

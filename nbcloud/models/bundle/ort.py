"""A model in onnxruntime's own format, for builds of it that have only the operators which a model needs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from nbcloud.errors import ModelError
from nbcloud.models.optimize.targets import target

FORMS = ("onnx", "ort")
_PATIENCE = 1800


def convert(model: Path, target_name: str) -> tuple[bytes, bytes]:
    """Write a model for a target in that format, its graph made final for that kind of processor.

    Returns
    -------
    model : bytes
    operators : bytes
        Operators and types that it needs, as a build of onnxruntime takes them: ``--include_ops_by_config``.

    Raises
    ------
    UsageError
        For an unknown target.
    ModelError
        When onnxruntime can't.
    """
    platform = "arm" if target(target_name).signed else "amd64"
    with tempfile.TemporaryDirectory(prefix="nbcloud-ort-", ignore_cleanup_errors=True) as folder:
        _run(model, Path(folder), platform)
        operators = Path(folder, f"{model.stem}.required_operators_and_types.config").read_bytes()
        # What is left out are comments with names of this machine's folders.
        lines = [line for line in operators.splitlines() if line and not line.startswith(b"#")]
        return Path(folder, f"{model.stem}.ort").read_bytes(), b"\n".join(lines) + b"\n"


def _run(model: Path, folder: Path, platform: str) -> None:
    """In a process of its own, because some models crash onnxruntime."""
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(model.resolve())]
    command += ["--optimization_style=Fixed", f"--target_platform={platform}", "--enable_type_reduction"]
    command += [f"--output_dir={folder}"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise _not_made(f"it took more than {_PATIENCE} s") from None
    if run.returncode < 0:
        raise _not_made(f"it was killed by signal {-run.returncode}")
    if run.returncode:
        said = (run.stderr.strip().splitlines() or ["no reason was told"])[-1]
        raise _not_made(said[:300].rstrip("."))


def _not_made(why: str) -> ModelError:
    return ModelError(
        f"onnxruntime can't write the model in its own format: {why}.", 'Bundle it with form="onnx".'
    )

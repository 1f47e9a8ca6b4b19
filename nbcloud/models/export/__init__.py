"""Trained models become verified ONNX: one file for each framework, with the same names in each.

::

    a model and a sample ─► adapt: which framework, what it takes
        ─► convert: an exporter writes ONNX, in the first of its ways that
        ─► verify: answers as the model does
        ─► metadata into the file
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nbcloud.errors import ExportError, ModelError, UsageError, VerificationError
from nbcloud.models import onnxfile
from nbcloud.models.export import keras, onnx, skl, torch
from nbcloud.models.exportable import Conversion, Exportable, Options
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.signature import Signature, Tensor
from nbcloud.models.verify import Progress, Report, verify

__all__ = ["Exported", "Options", "export"]

_FRAMEWORKS: tuple[ModuleType, ...] = (skl, keras, torch, onnx)
_ONE_AT_A_TIME = threading.RLock()
"""Exporters, and what is mended in them here, change what is the whole process': warnings, logs, classes."""


@dataclass(frozen=True)
class Exported:
    """A verified ONNX file with its facts."""

    path: Path
    metadata: Metadata
    report: Report

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self.metadata.signature


def export(
    model: Any,
    sample: Any,
    *,
    name: str,
    path: Path,
    evidence: Path | None = None,
    options: Options | None = None,
    facts: Mapping[str, Any] | None = None,
    meanings: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    progress: Progress = lambda _: None,
) -> Exported:
    """Write a model as ONNX, verified.

    Parameters
    ----------
    model : object or path
        Of scikit-learn, torch or Keras; or a file of a model.
    sample : array, DataFrame, tensor, or a tuple or mapping of such
        What it takes, a few rows of real data: types and shapes are read off it, and the comparison begins
        with it.
    path : Path
        Of the file to write.
    evidence : Path, optional
        A folder for what a failed comparison saw; ``<path>.evidence`` otherwise.
    facts : mapping, optional
        Further fields of `Metadata`: ``run``, ``metrics``, ``licence``, ``preprocessing``.
    meanings, units : mapping, optional
        By the names of inputs and outputs.

    Raises
    ------
    ExportError
        When it can't become ONNX.
    VerificationError
        When it does, but answers otherwise.
    """
    options = options or Options()
    framework = _framework(model)
    evidence = evidence or path.with_name(f"{path.name}.evidence")
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        progress("waiting for another export of this process")
        _ONE_AT_A_TIME.acquire()
    try:
        progress("reading the model")
        adapted: Exportable = framework.adapt(model, sample, options)
        conversion, report = _first_right(adapted, framework.attempts, path, options, evidence, progress)
    finally:
        _ONE_AT_A_TIME.release()
    signature = _signature(conversion, report, meanings or {}, units or {})
    told = dict(facts or {})
    metadata = Metadata(
        signature=signature,
        name=name,
        framework=adapted.framework,
        exporter=conversion.exporter,
        opset=conversion.opset,
        versions=adapted.versions,
        data_schema=_schema_hash(signature),
        notes=conversion.notes,
        verification=report.to_json(),
        preprocessing=[*told.pop("preprocessing", []), *conversion.preprocessing],
        **told,
    )
    onnxfile.set_properties(path, {KEY: metadata.to_text()})
    return Exported(path, metadata, report)


def _framework(model: Any) -> ModuleType:
    for framework in _FRAMEWORKS:
        if framework.accepts(model):
            return framework
    if isinstance(model, (str, Path)):
        raise ExportError(
            f"{model} is no file of a model that nbcloud reads.",
            "Give .onnx, .keras, .h5 or a SavedModel. Others, as .pt and .pkl, can run code when they are "
            "read: load one that you trust, and export the model itself.",
        )
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    raise ExportError(
        f"nbcloud can't export a {kind}.",
        "It exports scikit-learn estimators, torch modules, Keras and TensorFlow models, and ONNX files.",
    )


def _first_right(
    model: Exportable,
    attempts: tuple[str, ...],
    path: Path,
    options: Options,
    evidence: Path,
    progress: Progress,
) -> tuple[Conversion, Report]:
    """The first way of the exporter whose result is right; the first error when none is."""
    if options.exporter is not None:
        known = dict.fromkeys(attempt.partition(",")[0] for attempt in attempts)
        if options.exporter not in known:
            raise UsageError(
                f"There is no exporter {options.exporter!r} for {model.framework} models.",
                f"There are: {', '.join(known)}.",
            )
        attempts = tuple(each for each in attempts if each.partition(",")[0] == options.exporter)
    failed: list[ModelError] = []
    for attempt in attempts:
        progress(f"converting ({attempt})")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            try:
                made = model.convert(Path(folder) / path.name, options, attempt)
                made = replace(made, outputs=_labelled(made.outputs, tuple(options.labels or ())))
                report = verify(made, model, evidence=Path(folder) / "evidence", progress=progress)
            except (ExportError, VerificationError) as error:
                failed.append(_keep_evidence(error, Path(folder), evidence, path.name))
                continue
            for file in reversed(onnxfile.files(made.path)):  # the one that names the others last
                file.replace(path.with_name(file.name))
            return replace(made, path=path), report
    wrong = [error for error in failed if isinstance(error, VerificationError)]
    raise (wrong or failed)[0]


def _labelled(outputs: tuple[Tensor, ...], labels: tuple[int | str, ...]) -> tuple[Tensor, ...]:
    """The outputs with the classes that were given, where the framework's file has not told them already."""
    if not labels or any(each.labels == labels for each in outputs):
        return outputs
    fitting = [each for each in outputs if each.shape[-1:] == (len(labels),)]
    if not fitting:
        raise UsageError(
            f"{len(labels)} labels were given, and no output has as many places.",
            f"The model gives: {', '.join(map(str, outputs))}.",
        )
    return tuple(replace(each, labels=labels) if each in fitting else each for each in outputs)


def _keep_evidence(error: ModelError, folder: Path, evidence: Path, name: str) -> ModelError:
    if not isinstance(error, VerificationError) or evidence.exists() or not (folder / "evidence").exists():
        return error
    shutil.copytree(folder / "evidence", evidence)
    for file in onnxfile.files(folder / name):
        shutil.copy(file, evidence / file.name)
    return VerificationError(
        error.message,
        f"Inputs, both answers and the model are in {evidence}",
        **{**error.data, "evidence": str(evidence)},
    )


def _signature(
    conversion: Conversion, report: Report, meanings: Mapping[str, str], units: Mapping[str, str]
) -> Signature:
    known = {each.name for each in (*conversion.inputs, *conversion.outputs)}
    for name in (*meanings, *units):
        if name not in known:
            raise UsageError(
                f"The model has no input or output {name!r}.", f"It has: {', '.join(sorted(known))}."
            )

    def told(tensor: Tensor) -> Tensor:
        return replace(tensor, meaning=meanings.get(tensor.name, ""), unit=units.get(tensor.name, ""))

    inputs = tuple(replace(told(each), finite=report.finite_only) for each in conversion.inputs)
    return Signature(inputs, tuple(told(each) for each in conversion.outputs))


def _schema_hash(signature: Signature) -> str:
    facts = [[each.name, each.dtype, each.shape, each.columns] for each in signature.inputs]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

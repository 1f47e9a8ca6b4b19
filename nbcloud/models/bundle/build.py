"""A verified ONNX file becomes a bundle."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ModelError, UsageError
from nbcloud.extras import check
from nbcloud.models import onnxfile, steps
from nbcloud.models.bundle import archive, ort, postprocess
from nbcloud.models.bundle.archive import SUFFIX, Source
from nbcloud.models.bundle.golden import difference, to_member
from nbcloud.models.bundle.keys import sign as sign_with
from nbcloud.models.bundle.manifest import File, Golden, Manifest, Requirements
from nbcloud.models.bundle.runtime import runtime
from nbcloud.models.bundle.sbom import sbom
from nbcloud.models.metadata import Metadata
from nbcloud.models.signature import Feeds, Signature

_SBOM = "sbom.cdx.json"
_MODEL = "model"
_GOLDEN = "golden"
_OPERATORS = "required_operators.config"
_ROWS = 16
_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
"""By the least precise numbers in a model: processors round and saturate small integers differently."""
_RUNTIMES = (
    # Largest opset, IR and opset of ai.onnx.ml, and the first onnxruntime that knows them.
    (15, 8, 2, "1.10"),
    (16, 8, 3, "1.11"),
    (17, 8, 3, "1.12"),
    (18, 8, 3, "1.14"),
    (19, 9, 3, "1.15"),
    (20, 9, 4, "1.17"),
    (21, 10, 4, "1.18"),
    (21, 10, 5, "1.20"),
    (22, 10, 5, "1.21"),
    (23, 11, 5, "1.22"),
)


def bundle(
    model: Path,
    path: Path,
    *,
    golden: Any,
    sign: Path | None = None,
    name: str = "",
    version: str = "1",
    variant: str = "",
    target: str = "edge",
    preprocessing: Sequence[Mapping[str, Any]] | None = None,
    postprocessing: Sequence[Mapping[str, Any]] = (),
    labels: Mapping[str, Sequence[int | str]] | None = None,
    tolerance: float | None = None,
    licence: str = "",
    form: str = "onnx",
) -> Manifest:
    """Make the one file that is shipped to a device.

    Parameters
    ----------
    model : path
        An ONNX file that nbcloud exported; weights beside it go along.
    path : path
        Of the bundle: ``digits.nbundle``. The same arguments give the same bytes.
    golden : array, DataFrame or mapping
        Some rows of real data. The answers that the model gives to them here are those that each device must
        give before it uses the model.
    sign : path, optional
        A private key, made by `nbcloud.models.bundle.keys.generate`.
    preprocessing, postprocessing : sequence of dict
        What is done before and after the model, declared; preprocessing is the export's by default.
    labels : mapping, optional
        The classes of outputs, where the model does not know them.
    variant : str, optional
        ``fp32``, ``fp16`` or ``int8`` by default, as the model's numbers are.
    tolerance : float, optional
        Largest difference of a device's answers, relative to the largest magnitude in the column; by default
        1e-3 for fp32, more for less precise numbers.
    form : str
        ``ort`` is onnxruntime's own: its graph is final for the target's kind of processor, and builds of
        onnxruntime with nothing but the operators in the member ``required_operators.config`` run it. Its
        bytes differ from time to time, because onnxruntime writes parts of it in no fixed order.

    Raises
    ------
    UsageError, SchemaError
        Names the argument, the step or the input that can't be right.
    ModelError
        When the file is no model of nbcloud's, or answers otherwise in that form.
    """
    if form not in ort.FORMS:
        raise UsageError(f"There is no form {form!r} of bundles.", f"There are: {', '.join(ort.FORMS)}.")
    # A bundle is replaced, as tools that build do; a file of another kind never is.
    if path.is_dir() or (path.exists() and path.suffix != SUFFIX):
        raise UsageError(
            f"{path} is there, and its name is not that of a bundle.", f"Name the bundle NAME{SUFFIX}."
        )
    for package in ("onnx", "onnxruntime"):
        check(package, "to make bundles")
    metadata, proto = _facts(model)
    ir, opsets = proto.ir_version, {each.domain or "ai.onnx": each.version for each in proto.opset_import}
    precision = _precision(proto)
    allowed = _TOLERANCES[precision] if tolerance is None else tolerance
    metadata = replace(
        metadata,
        signature=_labelled(metadata.signature, labels or {}),
        preprocessing=[
            dict(each) for each in (metadata.preprocessing if preprocessing is None else preprocessing)
        ],
    )
    name = name or metadata.name or model.stem
    postprocess.check(postprocessing, [each.name for each in metadata.signature.outputs])
    given, answers = _answered(model, metadata, golden, allowed)
    postprocess.apply(postprocessing, metadata.signature, answers)
    members: dict[str, Source] = dict(runtime().items())
    stored: dict[str, Source] = {file.name: file for file in onnxfile.files(model)}
    needed = _oldest_runtime(ir, opsets)
    if form == "ort":
        content, members[_OPERATORS] = ort.convert(model, target)
        _compare(content, metadata, given, answers, allowed)
        stored, needed = {f"{model.stem}.ort": content}, _this_runtime()
    members |= {f"{_MODEL}/{file}": source for file, source in stored.items()}
    main = f"{_MODEL}/{next(iter(stored))}"
    sample = Golden(
        _added(members, f"{_GOLDEN}/inputs", given),
        _added(members, f"{_GOLDEN}/outputs", answers),
        {key: allowed for key, value in answers.items() if np.asarray(value).dtype.kind in "fc"},
    )
    made_for = Requirements(target, needed, ir, opsets)
    licence = licence or metadata.licence
    digest = _described(members[main]).sha256
    members[_SBOM] = sbom(metadata, made_for, name=name, version=version, licence=licence, sha256=digest)
    manifest = Manifest(
        name=name,
        version=version,
        variant=variant or precision,
        model=main,
        metadata=metadata,
        golden=sample,
        target=made_for,
        files={member: _described(source) for member, source in sorted(members.items())},
        postprocessing=[dict(each) for each in postprocessing],
        licence=licence,
        run=metadata.run,
    )
    _write(path, members, manifest, sign)
    return manifest


def _described(source: Source) -> File:
    if isinstance(source, bytes):
        return File(len(source), hashlib.sha256(source).hexdigest())
    return File(source.stat().st_size, onnxfile.digest(source))


def _write(path: Path, members: dict[str, Source], manifest: Manifest, key: Path | None) -> None:
    members[archive.MANIFEST] = content = manifest.to_bytes()
    if key is not None:
        members[archive.SIGNATURE] = sign_with(key, content).to_bytes()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        archive.write(unfinished, members)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _facts(path: Path) -> tuple[Metadata, Any]:
    """What the file says of itself, and the model without weights that are beside it."""
    if not path.is_file():
        hint = "Give the ONNX file of an export; one of the registry is models:/digits@champion."
        raise UsageError(f"There is no file {path}.", hint)
    try:
        model = onnxfile.load(path, weights=False)
    except Exception as error:
        raise ModelError(f"{path} is no ONNX file ({error}).", "Give the file of an export.") from error
    metadata = Metadata.of({each.key: each.value for each in model.metadata_props})
    if metadata is None:
        raise ModelError(
            f"{path} does not say what it takes, because nbcloud did not export it.",
            "Export it first: export() of nbcloud takes ONNX files, too, with a sample.",
        )
    return metadata, model


def _precision(model: Any) -> str:
    """The least precise numbers that the model's weights are."""
    import onnx

    kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in model.graph.initializer}
    if kinds & {"INT8", "UINT8", "INT4", "UINT4"}:
        return "int8"
    return "fp16" if kinds & {"FLOAT16", "BFLOAT16"} else "fp32"


def _labelled(signature: Signature, labels: Mapping[str, Sequence[int | str]]) -> Signature:
    outputs = {each.name: each for each in signature.outputs}
    for name, classes in labels.items():
        if name not in outputs:
            raise UsageError(f"The model has no output {name!r}.", f"It has: {', '.join(outputs)}.")
        last = outputs[name].shape[-1] if outputs[name].shape else None
        if isinstance(last, int) and last != len(classes):
            raise UsageError(
                f"{len(classes)} labels are given for the output {name!r}, which has {last} places.",
                "Give one for each.",
            )
        outputs[name] = replace(outputs[name], labels=tuple(classes))
    return replace(signature, outputs=tuple(outputs.values()))


def _answered(model: Path, metadata: Metadata, golden: Any, tolerance: float) -> tuple[Feeds, Feeds]:
    """The golden inputs as a device is given them, and the model's answers."""
    outer = Signature(metadata.takes, ())
    given = outer.feeds(golden)
    if _is_batch(outer, given):
        given = {name: value[:_ROWS] for name, value in given.items()}
    feeds = steps.apply(metadata.preprocessing, given)
    answers = _run(model, metadata, feeds, "ORT_ENABLE_BASIC")
    for name, value in answers.items():
        if not isinstance(value, np.ndarray):
            raise ModelError(
                f"The output {name!r} is no array but a {type(value).__name__}.",
                "Export it without such outputs.",
            )
    # Devices fuse operators, too. Of 8 bits these round a little otherwise, and on some processors are wrong.
    fused = _run(model, metadata, feeds, "ORT_ENABLE_EXTENDED")
    right = not any(difference(fused[name], value, tolerance) for name, value in answers.items())
    return given, fused if right else answers


def _compare(content: bytes, metadata: Metadata, given: Feeds, answers: Feeds, tolerance: float) -> None:
    feeds = steps.apply(metadata.preprocessing, given)
    found = _run(content, metadata, feeds, "ORT_ENABLE_ALL")
    for name, expected in answers.items():
        if wrong := difference(found[name], expected, tolerance):
            raise ModelError(
                f"In onnxruntime's own format the model answers otherwise: output {name!r}, {wrong}.",
                'Bundle it with form="onnx".',
            )


def _run(model: Path | bytes, metadata: Metadata, feeds: Feeds, level: str) -> Feeds:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in metadata.signature.outputs]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _is_batch(signature: Signature, feeds: Feeds) -> bool:
    """Whether some rows are enough: every first dimension varies, and all agree."""
    varies = all(each.shape and isinstance(each.shape[0], str) for each in signature.inputs)
    return varies and len({value.shape[0] for value in feeds.values()}) == 1


def _added(members: dict[str, Source], folder: str, arrays: Feeds) -> dict[str, str]:
    """Add arrays as members; names of inputs may be any text, so that members are numbered."""
    named = {}
    for number, (name, value) in enumerate(arrays.items()):
        ending, content = to_member(value)
        named[name] = f"{folder}/{number}{ending}"
        members[named[name]] = content
    return named


def _oldest_runtime(ir: int, opsets: Mapping[str, int]) -> str:
    for opset, newest_ir, ml, version in _RUNTIMES:
        if opsets.get("ai.onnx", 0) <= opset and ir <= newest_ir and opsets.get("ai.onnx.ml", 0) <= ml:
            return version
    return _this_runtime()


def _this_runtime() -> str:
    import onnxruntime

    return ".".join(onnxruntime.__version__.split(".")[:2])

"""A model that is ONNX already: what it says of itself, and its answers as ONNX defines them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ExportError, UsageError, VerificationError
from nbcloud.models import onnxfile
from nbcloud.models.export.onnx import answers, files, trial, versions
from nbcloud.models.export.onnx.answers import Answers
from nbcloud.models.export.onnx.sizes import given_sizes, seen_sizes
from nbcloud.models.exportable import Conversion, Options
from nbcloud.models.metadata import Metadata
from nbcloud.models.signature import TEXT, Feeds, Tensor
from nbcloud.models.verify.compare import difference

REFERENCE, ONNXRUNTIME = "reference", "onnxruntime"
"""What the answers are compared with: ONNX's reference implementation, which is numpy; and onnxruntime's own
without optimisations, which finds what these spoil, and nothing else."""
_PATIENCE = 5.0
"""Seconds that the reference implementation may take for a sample; above, it answers its first row only."""
_COARSE = "bfloat16"
"""The precision that holds for models with 8-bit values inside: a step of these is 1/255 of their range."""
_SCORES = ("probabilities", "scores")
_EIGHT_BITS = ("QuantizeLinear", "QLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QGemm")


class OnnxModel:
    """A checked ONNX model with a sample of what it takes.

    Parameters
    ----------
    source : path or onnx.ModelProto
    sample : array, DataFrame, mapping or tuple of arrays

    Raises
    ------
    ExportError
        When the file can't be right; `nbcloud.models.export.onnx.files`.
    SchemaError
        When the sample is not what the file says that it takes.
    """

    framework = "onnx"

    def __init__(self, source: Any, sample: Any, options: Options) -> None:
        import onnx
        import onnxruntime

        if options.input_names is not None or options.output_names is not None:
            raise UsageError("An ONNX file names its inputs and outputs itself.", "Leave the names out.")
        self._model = files.read(source)
        self.versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        self._known = self._from_nbcloud()
        for each in self._model.graph.output:
            described(each, "output")
        told = tuple(self._described(each) for each in _required(self._model))
        if not told:
            raise ExportError("The ONNX model takes nothing, so there is nothing to ask it.")
        self.inputs, self.feeds = given_sizes(told, sample, options.dynamic)
        self._answers: Answers | None = None

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the file as this machine's onnxruntime reads it, with the sizes that it really has."""
        if attempt == ONNXRUNTIME and options.exporter != ONNXRUNTIME:
            raise ExportError("onnxruntime's own answers prove little, and are not compared with unasked.")
        model, notes = versions.fitting(self._model, options.opset)
        onnxfile.save(model, path)
        defined, why_not = versions.for_reference(self._model)
        tried = trial.run(path, self.feeds, defined if attempt == REFERENCE and not why_not else None)
        tried = replace(tried, why_not=why_not) if why_not else tried
        plain = answers.by_onnxruntime(path)
        self.inputs, outputs, said = seen_sizes(self.inputs, self.feeds, plain)
        self._answers, how = self._chosen(plain, defined, tried, attempt, lowered=bool(notes))
        _write_sizes(model, self.inputs, outputs)
        onnxfile.save(model, path)
        notes += [*said, *how]
        coarse = any(node.op_type.startswith(_EIGHT_BITS) for node in model.graph.node)
        if coarse:
            _check_eight_bits(plain(self.feeds), answers.by_onnxruntime(path, optimised=True)(self.feeds))
            self._answers = answers.by_steps(self._answers, path)
            notes.append("It has 8-bit values inside: up to three steps of their 255 are taken for rounding.")
        exact = not how
        return Conversion(
            path=path,
            inputs=self.inputs,
            outputs=tuple(self._told(each) for each in outputs),
            exporter=" ".join(filter(None, (model.producer_name, model.producer_version))) or "unknown",
            opset=versions.opset(model),
            steps=_steps(defined, model) if exact else {},
            notes=notes,
            precision=_COARSE if coarse else "",
            scores={"label": next((each.name for each in outputs if each.name in _SCORES), "")},
        )

    def predict(self, feeds: Feeds) -> Feeds:
        """The answers that ONNX defines."""
        assert self._answers is not None
        return self._answers(feeds)

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """The reference implementation's values of `Conversion.steps`."""
        defined, _ = versions.for_reference(self._model)
        found = answers.by_reference(onnxfile.with_outputs(defined, names))(feeds)
        yield from ((name, found[name]) for name in names)

    def _chosen(
        self, plain: Answers, defined: Any, tried: trial.Tried, attempt: str, *, lowered: bool
    ) -> tuple[Answers, list[str]]:
        """Who answers for ONNX, and what the user should know of that."""
        if attempt == ONNXRUNTIME:
            return plain, ["Compared with onnxruntime's own answers without optimisations, as was asked for."]
        if tried.why_not:
            if lowered:
                raise ExportError(
                    f"The file had to be rewritten, and can't be compared with what it was: {tried.why_not}.",
                    "Export the model again in an older opset.",
                )
            return plain, [
                f"ONNX's reference implementation can't compute it ({tried.why_not}): it was compared with "
                "onnxruntime's own answers without optimisations."
            ]
        reference = answers.by_reference(defined)
        rows = _rows(self.inputs, self.feeds)
        if tried.seconds <= _PATIENCE:
            return answers.forgiving(reference, plain, self.feeds), []
        if rows and tried.seconds / rows <= _PATIENCE and answers.is_by_row(plain, self.feeds):
            return answers.with_first_row(reference, plain), [
                "It is slow in ONNX's reference implementation, which answered the first row of each case; "
                "the others were compared with onnxruntime's own answers without optimisations."
            ]
        if lowered:
            raise ExportError(
                "The file had to be rewritten, and is too slow in ONNX's reference implementation to be "
                "compared with what it was.",
                "Export the model again in an older opset, or give a smaller sample.",
            )
        return plain, [
            "It is too slow for ONNX's reference implementation: it was compared with onnxruntime's own "
            "answers without optimisations. A smaller sample may be quick enough."
        ]

    def _from_nbcloud(self) -> dict[str, Tensor]:
        """What nbcloud wrote of its inputs and outputs, where it did."""
        known = Metadata.of({each.key: each.value for each in self._model.metadata_props})
        if known is None:
            return {}
        if known.preprocessing:
            raise ExportError(
                "The file is an export of nbcloud's whose input is prepared before the graph, and was "
                "verified with that.",
                "Export the model that it was made of, or register the file: "
                "nbcloud.models.registry.Registry().add(path, name)",
            )
        return {each.name: each for each in (*known.signature.inputs, *known.signature.outputs)}

    def _described(self, value: Any) -> Tensor:
        return self._told(described(value, "input"))

    def _told(self, tensor: Tensor) -> Tensor:
        known = self._known.get(tensor.name)
        if known is not None:
            tensor = replace(
                tensor, columns=known.columns, labels=known.labels, meaning=known.meaning, unit=known.unit
            )
        return tensor


def described(value: Any, what: str) -> Tensor:
    """An input or output as the file has it; a size without a name or number is called by its place.

    Raises
    ------
    ExportError
        When it is no tensor, or of a type that numpy has not.
    """
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ExportError(
            f"The {what} {value.name!r} is no array ({(kind or 'nothing').removesuffix('_type')}).",
            "Export the model again with arrays only.",
        )
    tensor = value.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.STRING:
        dtype = TEXT
    else:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if np.dtype(dtype).kind not in "fiub" if dtype in np.sctypeDict else dtype != "bfloat16":
            raise ExportError(
                f"The {what} {value.name!r} is of the type {dtype}, which numpy has not.",
                "Export the model again with another type there.",
            )
    shape: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(int(dim.dim_value))
        else:
            shape.append(dim.dim_param or ("batch" if axis == 0 else f"{value.name}_{axis}"))
    return Tensor(value.name, dtype, tuple(shape))


def _check_eight_bits(plain: Feeds, optimised: Feeds) -> None:
    """Refuse what comes out wrong by the 8-bit products of this machine, which may saturate."""
    for name, value in plain.items():
        near = answers.nearest_step(value, optimised[name])
        found = difference(name, optimised[name], near, _COARSE)
        if found.amount > 1:
            raise VerificationError(
                f"onnxruntime's products of 8 bits overflow on this machine: output {name!r}, {found.text}.",
                "Make the 8-bit model again with weights of 7 bits: quantize_static(…, reduce_range=True)",
            )


def _rows(inputs: tuple[Tensor, ...], feeds: Feeds) -> int:
    """Rows of the batch; 0 where the inputs have no such dimension in common."""
    first = {each.shape[0] if each.shape else 0 for each in inputs}
    return len(feeds[inputs[0].name]) if len(first) == 1 and isinstance(first.pop(), str) else 0


def _required(model: Any) -> list[Any]:
    """The inputs that have to be given: older files list weights among them."""
    weights = {each.name for each in model.graph.initializer}
    weights |= {each.values.name for each in model.graph.sparse_initializer}
    return [each for each in model.graph.input if each.name not in weights]


def _write_sizes(model: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Inputs and outputs of the graph as they were seen; what is told of values inside may be otherwise."""
    import onnx

    del model.graph.value_info[:]
    told = {each.name: each for each in (*inputs, *outputs)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in told:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, told[value.name].shape))


def _steps(original: Any, written: Any) -> dict[str, str]:
    """The values inside of both, by the nodes that make them."""
    there = {name for node in written.graph.node for name in node.output}
    return {
        name: f"the node {node.name!r} ({node.op_type})" if node.name else f"{name!r} ({node.op_type})"
        for node in original.graph.node
        for name in node.output
        if name and name in there
    }

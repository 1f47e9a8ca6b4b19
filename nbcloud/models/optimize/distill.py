"""Distillation: the user trains a smaller model on what the model answers, and it takes its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbcloud.errors import ExportError, SchemaError, VerificationError
from nbcloud.models import onnxfile
from nbcloud.models.export import Exported, export
from nbcloud.models.metadata import Metadata
from nbcloud.models.optimize.calling import calling
from nbcloud.models.optimize.ways import NotApplicable
from nbcloud.models.signature import Feeds, Tensor

Student = Callable[[Feeds, Feeds], Any]
"""Is given arrays by the names of inputs, and the model's answers by those of outputs; returns a model."""

STUDENT = "student"
_SAMPLE = 64
_OWN = "student/"


def learn(student: Student, path: Path, feeds: Feeds, metadata: Metadata, target: Path) -> Metadata:
    """Have the student trained, and write it, verified, with the model's own inputs and outputs.

    Raises
    ------
    NotApplicable
        When it can't be exported, or takes or gives something else.
    """
    signature = metadata.signature
    names = [each.name for each in signature.outputs]
    answers = dict(zip(names, _session(path).run(names, feeds), strict=True))
    with calling(f"{STUDENT}="):
        trained = student({name: value.copy() for name, value in feeds.items()}, answers)
    few = {name: value[:_SAMPLE] for name, value in feeds.items()}
    sample = tuple(few.values()) if len(few) > 1 else next(iter(few.values()))
    try:
        made = export(trained, sample, name=metadata.name, path=target)
    except (ExportError, SchemaError, VerificationError) as error:
        raise NotApplicable(f"the student can't be exported: {error.message.rstrip('.')}") from error
    _fit("takes", made.signature.inputs, signature.inputs)
    _fit("gives", made.signature.outputs, signature.outputs)
    if made.metadata.preprocessing:
        raise NotApplicable("the student needs steps before its graph, which the model does not")
    _rename(made, metadata)
    return replace(
        metadata,
        exporter=f"{made.metadata.exporter}, distilled from {metadata.exporter or metadata.framework}",
        opset=made.metadata.opset,
        verification=made.metadata.verification,
    )


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _fit(what: str, found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """Each is of the type and the shape of the model's in its place."""
    told = f"the student {what} {', '.join(map(str, found))}, the model {', '.join(map(str, wanted))}"
    if len(found) != len(wanted):
        raise NotApplicable(told)
    for one, other in zip(found, wanted, strict=True):
        sizes = zip(one.shape, other.shape, strict=False)
        alike = all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in sizes)
        if one.dtype != other.dtype or len(one.shape) != len(other.shape) or not alike:
            raise NotApplicable(told)


def _rename(made: Exported, metadata: Metadata) -> None:
    """Give the student's inputs and outputs the model's names, by nodes that change nothing."""
    import onnx

    model = onnx.compose.add_prefix(onnxfile.load(made.path), _OWN)
    graph = model.graph
    node = onnx.helper.make_node
    wanted = metadata.signature
    first = [
        node("Identity", [new.name], [value.name])
        for value, new in zip(graph.input, wanted.inputs, strict=True)
    ]
    last = [
        node("Identity", [value.name], [new.name])
        for value, new in zip(graph.output, wanted.outputs, strict=True)
    ]
    nodes = [*first, *graph.node, *last]
    copies = [type(each).FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for value, new in zip((*graph.input, *graph.output), (*wanted.inputs, *wanted.outputs), strict=True):
        value.name = new.name
    onnxfile.save(model, made.path)

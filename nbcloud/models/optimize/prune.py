"""Outputs that nobody needs are cut off, with the nodes and weights that only they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import Metadata
from nbcloud.models.signature import Signature


def with_outputs_only(
    path: Path, metadata: Metadata, names: Sequence[str], target: Path
) -> tuple[Path, Metadata]:
    """Write the model with these outputs only; its inputs stay.

    Raises
    ------
    UsageError
        For an output that it has not, or when none is kept.
    """
    outputs = {each.name: each for each in metadata.signature.outputs}
    for name in names:
        if name not in outputs:
            raise UsageError(f"The model has no output {name!r}.", f"It has: {', '.join(outputs)}.")
    if not names:
        raise UsageError("A model without outputs answers nothing.", f"It has: {', '.join(outputs)}.")
    model = onnxfile.load(path)
    _prune(model.graph, set(names))
    onnxfile.save(model, target)
    kept = tuple(each for name, each in outputs.items() if name in names)
    return target, replace(metadata, signature=Signature(metadata.signature.inputs, kept))


def _prune(graph: Any, names: set[str]) -> None:
    needed = set(names)
    nodes = []
    for node in reversed(graph.node):  # each comes after what it takes
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_taken(node))
    kept = [each for each in graph.output if each.name in names]
    weights = [each for each in graph.initializer if each.name in needed]
    sparse = [each for each in graph.sparse_initializer if each.values.name in needed]
    for field, left in (
        (graph.node, nodes[::-1]),
        (graph.output, kept),
        (graph.initializer, weights),
        (graph.sparse_initializer, sparse),
    ):
        copies = [type(each).FromString(each.SerializeToString()) for each in left]
        del field[:]
        field.extend(copies)
    del graph.value_info[:]


def _taken(node: Any) -> Iterator[str]:
    """The names that a node takes, those that its branches and loops take from outside too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (each.name for each in graph.output)
            for inner in graph.node:
                yield from _taken(inner)

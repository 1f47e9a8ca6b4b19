"""What differs between two versions: what they take and give, their graphs, sizes and metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nbcloud.models import onnxfile
from nbcloud.models.registry.version import Version


@dataclass(frozen=True)
class Difference:
    """One fact that two versions have each in their own way; None where one has it not."""

    what: str
    before: Any
    after: Any


def differences(before: Version, after: Version) -> list[Difference]:
    """All that differs, what they take and give first."""
    pairs = [*_pairs(_facts(before), _facts(after)), *_pairs(_graph(before), _graph(after))]
    return [each for each in pairs if each.before != each.after]


def _pairs(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Difference]:
    for key in dict.fromkeys([*one, *other]):
        yield Difference(key, one.get(key), other.get(key))


def _facts(version: Version) -> dict[str, Any]:
    metadata = version.metadata
    facts: dict[str, Any] = {f"input {each.name}": str(each) for each in metadata.takes}
    facts |= {f"output {each.name}": str(each) for each in metadata.signature.outputs}
    facts |= {f"metric {key}": value for key, value in metadata.metrics.items()}
    facts |= {"size": version.entry.size, "framework": metadata.framework, "exporter": metadata.exporter}
    facts |= {"opset": metadata.opset, "licence": metadata.licence, "run": version.entry.run}
    facts |= {f"version of {key}": value for key, value in metadata.versions.items()}
    facts |= {f"tag {key}": value for key, value in version.entry.tags.items()}
    facts["stage"] = version.entry.stage
    facts["variants"] = ", ".join(version.entry.variants)
    return facts


def _graph(version: Version) -> dict[str, Any]:
    """How often each operator occurs, and the weights by their names: shape and type, or only the values."""
    import onnx

    graph = onnxfile.load(version.path()).graph
    facts: dict[str, Any] = {}
    counts = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.node)
    facts |= {f"operator {name}": count for name, count in sorted(counts.items())}
    changed: dict[str, tuple[str, int]] = {}
    for weight in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(weight.data_type).lower()
        changed[weight.name] = (f"{kind}{list(weight.dims)}", hash(weight.SerializeToString()))
    facts["weights"] = len(changed)
    facts["weights' shapes"] = dict(sorted((name, kind) for name, (kind, _) in changed.items()))
    facts["weights' values"] = {name: value for name, (_, value) in sorted(changed.items())}
    return facts

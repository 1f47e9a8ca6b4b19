"""What is mended in the graph that skl2onnx makes: names, shapes, and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nbcloud.models.export.skl.parts import trained
from nbcloud.models.signature import Feeds, Tensor


def rename(made: Any, names: Mapping[str, str]) -> None:
    """Give inputs and outputs other names; what had such a name inside of the graph gets a new one."""
    inside = {name for node in made.graph.node for name in (*node.input, *node.output)}
    inside |= {each.name for each in made.graph.initializer}
    names = {old: new for old, new in names.items() if old != new}
    taken = inside | set(names.values())
    full = dict(names)
    for name in inside & set(names.values()) - names.keys():
        new = f"{name}_inside"
        while new in taken:
            new += "_"
        full[name] = new
        taken.add(new)
    for node in made.graph.node:
        for list_ in (node.input, node.output):
            for place, name in enumerate(list_):
                list_[place] = full.get(name, name)
    for value in (*made.graph.input, *made.graph.output, *made.graph.initializer):
        value.name = full.get(value.name, value.name)


def impute_in_double(model: Any, made: Any) -> None:
    """Fill in what is missing by a choice of each: onnxruntime's Imputer has single precision only."""
    import onnx

    exact = {
        np.asarray(part.statistics_, np.float32).tobytes(): np.asarray(part.statistics_, np.float64)
        for part in trained(model)
        if type(part).__name__ == "SimpleImputer" and not isinstance(part.statistics_[0], str)
    }
    nodes = []
    for number, node in enumerate(made.graph.node):
        told = {each.name: each for each in node.attribute}
        if node.op_type != "Imputer" or "imputed_value_floats" not in told:
            nodes.append(node)
            continue
        name, missing = f"imputed_{number}", told["replaced_value_float"].f
        values = np.array(told["imputed_value_floats"].floats, np.float32)
        for end, value in (
            ("values", exact.get(values.tobytes(), values.astype(np.float64))),
            ("missing", np.array(missing, np.float64)),
        ):
            made.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{name}_{end}"))
        given = node.input[0]
        operation, inputs = ("IsNaN", [given]) if np.isnan(missing) else ("Equal", [given, f"{name}_missing"])
        nodes += [
            onnx.helper.make_node(operation, inputs, [f"{name}_at"]),
            onnx.helper.make_node("Where", [f"{name}_at", f"{name}_values", given], list(node.output)),
        ]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)


def stack_sequence(made: Any, name: str) -> None:
    """Let an output that is a list of arrays be one array, the list's items along its first axis."""
    import onnx

    output = next(each for each in made.graph.output if each.name == name)
    if output.type.WhichOneof("value") != "sequence_type":
        return
    kind = output.type.sequence_type.elem_type.tensor_type.elem_type
    for node in made.graph.node:
        for place, each in enumerate(node.output):
            if each == name:
                node.output[place] = f"{name}_list"
    made.graph.node.append(
        onnx.helper.make_node("ConcatFromSequence", [f"{name}_list"], [name], axis=0, new_axis=1)
    )
    output.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, [None, None, None]))


def keep_targets(made: Any, count: int) -> None:
    """Several targets of a regressor side by side, where skl2onnx has put them below each other."""
    import onnx

    name = made.graph.output[0].name
    node = next(each for each in made.graph.node if name in each.output)
    sizes = next(
        (each for each in made.graph.initializer if node.op_type == "Reshape" and each.name == node.input[1]),
        None,
    )
    if sizes is not None and onnx.numpy_helper.to_array(sizes).tolist() == [-1, 1]:
        own = onnx.numpy_helper.from_array(np.array([-1, count]), f"{sizes.name}_targets")
        made.graph.initializer.append(own)
        node.input[1] = own.name


def exponential(made: Any) -> None:
    """Let the prediction be the exponential of what the trees add up to; skl2onnx leaves it out."""
    import onnx

    name = made.graph.output[0].name
    for node in made.graph.node:
        for place, each in enumerate(node.output):
            if each == name:
                node.output[place] = f"{name}_logarithm"
    made.graph.node.append(onnx.helper.make_node("Exp", [f"{name}_logarithm"], [name]))


def name_classes(made: Any, classes: Any) -> None:
    """Let the label be the class itself, where the graph has its number."""
    import onnx

    label = made.graph.output[0].name
    for node in made.graph.node:
        for place, each in enumerate(node.output):
            if each == label:
                node.output[place] = f"{label}_number"
    values = _constant(classes)
    made.graph.initializer.append(onnx.numpy_helper.from_array(values, "all_classes"))
    made.graph.node.append(onnx.helper.make_node("Gather", ["all_classes", f"{label}_number"], [label]))
    kind = onnx.TensorProto.STRING if values.dtype == object else onnx.TensorProto.INT64
    sizes = [None] * len(made.graph.output[0].type.tensor_type.shape.dim)
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(label, kind, sizes))


def _constant(classes: Any) -> Any:
    values = np.array(classes)
    return values.astype(object) if values.dtype.kind in "OU" else values.astype(np.int64)


def by_threshold(made: Any, threshold: float, classes: Sequence[Any], positive: int) -> None:
    """Let the label be the positive class from a probability on; skl2onnx leaves the threshold out."""
    import onnx

    label, scores = (each.name for each in made.graph.output)
    for node in made.graph.node:
        for place, each in enumerate(node.output):
            if each == label:
                node.output[place] = f"{label}_by_half"
    kind = made.graph.output[1].type.tensor_type.elem_type
    kind = onnx.helper.tensor_dtype_to_np_dtype(kind)
    values = _constant(classes)
    for name, value in (
        ("threshold", np.array(threshold, kind)),
        ("threshold_column", np.array(positive)),
        ("threshold_reached", values[positive : positive + 1]),
        ("threshold_missed", values[1 - positive : 2 - positive]),
    ):
        made.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    node = onnx.helper.make_node
    made.graph.node.extend(
        [
            node("Gather", [scores, "threshold_column"], ["threshold_score"], axis=1),
            node("GreaterOrEqual", ["threshold_score", "threshold"], ["threshold_is_reached"]),
            node("Where", ["threshold_is_reached", "threshold_reached", "threshold_missed"], [label]),
        ]
    )


def outputs(made: Any, content: bytes, inputs: Sequence[Tensor], feeds: Feeds) -> tuple[Tensor, ...]:
    """What the graph gives, with the shapes that it has: declared ones aren't always right.

    It answers all rows of the feeds, and all but the last, so that what varies with the batch is seen.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )  # it runs twice only
    shapes = {}
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        given = {each.name: each.accept(feeds[each.name]) for each in inputs}
        names = [each.name for each in made.graph.output]
        rows = len(next(iter(given.values())))
        more = {name: np.concatenate([value, value[-1:]]) for name, value in given.items()}
        both = session.run(names, given), session.run(names, more)
        for name, one, other in zip(names, *both, strict=True):
            sizes = zip(np.shape(one), np.shape(other), strict=True)
            shapes[name] = tuple("batch" if (a, b) == (rows, rows + 1) else a for a, b in sizes)
    except Exception:  # noqa: BLE001 - the verification tells what onnxruntime says
        shapes = {}
    found = []
    for value in made.graph.output:
        tensor = value.type.tensor_type
        dtype = "str" if tensor.elem_type == onnx.TensorProto.STRING else str(
            onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        )  # fmt: skip
        declared = (
            "batch",
            *(size.dim_value or f"size{at}" for at, size in enumerate(tensor.shape.dim) if at),
        )
        shape = shapes.get(value.name, declared)
        found.append(Tensor(value.name, dtype, shape))
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, tensor.elem_type, list(shape)))
    return tuple(found)

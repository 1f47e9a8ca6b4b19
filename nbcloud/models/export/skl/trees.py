"""Trees and forests in the graph: what skl2onnx has otherwise than the estimators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nbcloud.models.export.skl.parts import trained


@contextmanager
def single_thresholds() -> Iterator[None]:
    """Have skl2onnx make thresholds of trees for single precision, also in a graph of double.

    Trees see single precision there, too (`single_in_trees`); and skl2onnx searches those for double in a
    loop that never ends where a threshold is infinite: where a tree parts what is missing from the rest.
    """
    from skl2onnx.common import tree_ensemble

    original = tree_ensemble.sklearn_threshold
    tree_ensemble.sklearn_threshold = lambda threshold, _, mode: original(threshold, np.float32, mode)
    try:
        yield
    finally:
        tree_ensemble.sklearn_threshold = original


def single_in_trees(model: Any, made: Any) -> None:
    """Have trees see single precision in a graph of double, and the graph take what they give.

    Single precision is what scikit-learn's own trees and XGBoost's compare with their thresholds, and what
    the operators of ONNX give, whatever they take. Those of HistGradientBoosting compare in double precision.
    """
    import onnx

    exact = _thresholds(model)
    declared = {each.name: each.type.tensor_type.elem_type for each in made.graph.output}
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    nodes = []
    for number, node in enumerate(made.graph.node):
        if not node.op_type.startswith("TreeEnsemble"):
            nodes.append(node)
            continue
        if exact:
            _compare_in_double(node, exact)
        else:
            rounded = f"rounded_for_trees_{number}"
            nodes.append(onnx.helper.make_node("Cast", [node.input[0]], [rounded], to=single))
            node.input[0] = rounded
        given = node.output[-1]
        node.output[-1] = f"given_by_trees_{number}"
        kind = declared.get(given, double)
        nodes += [node, onnx.helper.make_node("Cast", [node.output[-1]], [given], to=kind)]
    _set_nodes(made, nodes)
    for opset in made.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = max(opset.version, _ML_OPSET)


_ML_OPSET = 3
"""The first in which trees have double precision."""


_Trees = dict[tuple[bytes, ...], list[Any]]
"""What is known of trees, by what tells them from others; those that are alike, in their order."""


def _thresholds(model: Any) -> _Trees:
    """The thresholds of HistGradientBoosting's trees."""
    found: _Trees = {}
    for part in trained(model):
        for predictor in (each for stage in getattr(part, "_predictors", []) for each in stage):
            nodes = predictor.nodes
            at = np.flatnonzero(nodes["is_leaf"] == 0)
            key = _key(at, nodes["feature_idx"][at], nodes["left"][at])
            found.setdefault(key, []).append(nodes["num_threshold"])
    return found


def _key(branches: Any, features: Any, left: Any) -> tuple[bytes, ...]:
    """What tells a tree from others: its branches, their features and left children."""
    return tuple(np.asarray(each, np.int64).tobytes() for each in (branches, features, left))


def _next(known: _Trees, trees: Mapping[int, tuple[bytes, ...]]) -> dict[int, Any]:
    """What is known of each tree of a node."""
    found = {}
    for number, key in trees.items():
        if known.get(key):
            found[number] = known[key].pop(0) if len(known[key]) > 1 else known[key][0]
    return found


def _compare_in_double(node: Any, exact: _Trees) -> None:
    import onnx

    own = _next(exact, _trees(node))
    told = {each.name: each for each in node.attribute}
    values = np.array(told["nodes_values"].floats, np.float64)
    places = zip(told["nodes_treeids"].ints, told["nodes_nodeids"].ints, strict=True)
    for at, (tree, number) in enumerate(places):
        if tree in own and told["nodes_modes"].strings[at] != b"LEAF":
            values[at] = own[tree][number]
    for name in ("nodes_values", "nodes_hitrates", "target_weights", "class_weights", "base_values"):
        if name in told:
            numbers = values if name == "nodes_values" else np.array(told[name].floats, np.float64)
            node.attribute.remove(told[name])
            tensor = onnx.numpy_helper.from_array(numbers)
            node.attribute.append(onnx.helper.make_attribute(f"{name}_as_tensor", tensor))


def mend_trees(model: Any, made: Any) -> None:
    """Have scikit-learn's own trees answer as they do there, to the last bit.

    NaN goes the way that it goes in each tree; skl2onnx sends all of it to the right. A forest adds up the
    votes of its trees before it divides them: where as many trees vote for one class as for another, the
    first class wins, and no rounding decides.
    """
    ways: _Trees = {}
    votes = set()
    for part in trained(model):
        grown = [part, *np.ravel(np.array(getattr(part, "estimators_", []), object))]
        for tree in (getattr(each, "tree_", None) for each in grown):
            if tree is None:
                continue
            branches = np.flatnonzero(tree.children_left >= 0)
            key = _key(branches, tree.feature[branches], tree.children_left[branches])
            ways.setdefault(key, []).append(tree.missing_go_to_left)
            if type(part).__name__ in _FORESTS:
                votes.add(key)
    if not ways:
        return
    nodes = []
    for number, node in enumerate(made.graph.node):
        nodes.append(node)
        if node.op_type.startswith("TreeEnsemble"):
            trees = _trees(node)
            _send_missing(node, _next(ways, trees))
            if (
                node.op_type == "TreeEnsembleClassifier"
                and len(trees) > 1
                and votes.issuperset(trees.values())
            ):
                nodes += _add_before_dividing(made, node, len(trees), number)
    _set_nodes(made, nodes)


_FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier")


def _trees(node: Any) -> dict[int, tuple[bytes, ...]]:
    """Each tree of a node by what tells it from others."""
    told = {each.name: each for each in node.attribute}
    all_trees, numbers, features, left = (
        np.array(told[name].ints)
        for name in ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids")
    )
    branches = np.array([mode != b"LEAF" for mode in told["nodes_modes"].strings])
    found = {}
    for tree in np.unique(all_trees):
        at = np.flatnonzero((all_trees == tree) & branches)
        found[int(tree)] = _key(numbers[at], features[at], left[at])
    return found


def _send_missing(node: Any, ways: Mapping[int, Any]) -> None:
    told = {each.name: each for each in node.attribute}
    flag = told.get("nodes_missing_value_tracks_true") or node.attribute.add()
    flag.name, flag.type = "nodes_missing_value_tracks_true", 7
    flags = list(flag.ints) or [0] * len(told["nodes_treeids"].ints)
    for at, (tree, number) in enumerate(
        zip(told["nodes_treeids"].ints, told["nodes_nodeids"].ints, strict=True)
    ):
        if tree in ways and told["nodes_modes"].strings[at] != b"LEAF":
            flags[at] = int(ways[tree][number])
    del flag.ints[:]
    flag.ints.extend(flags)


def _set_nodes(made: Any, nodes: Sequence[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)


def _add_before_dividing(made: Any, node: Any, count: int, number: int) -> list[Any]:
    """The nodes that take the votes of a forest, which ``node`` only adds up now."""
    import onnx

    told = {each.name: each for each in node.attribute}
    weights = told.get("class_weights")
    if weights is None:
        return []
    whole = (np.array(weights.floats) * count).astype(np.float32)
    del weights.floats[:]
    weights.floats.extend(whole.tolist())
    strings = told.get("classlabels_strings")
    classes = list(strings.strings) if strings is not None else list(told["classlabels_int64s"].ints)
    values = np.array(classes, object if strings is not None else np.int64)
    label, probabilities = node.output
    name = f"votes_{number}"
    node.output[0], node.output[1] = f"{name}_label", f"{name}_sums"
    for end, value in (
        ("classes", values),
        ("count", np.array(count, np.float32)),
        ("column", np.array([1])),
    ):
        made.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{name}_{end}"))
    make = onnx.helper.make_node
    sums, new = f"{name}_sums", []
    if len(classes) == 2:  # where ONNX has 1 less the second's for the first
        new = [
            make("Gather", [sums, f"{name}_column"], [f"{name}_second"], axis=1),
            make("Sub", [f"{name}_count", f"{name}_second"], [f"{name}_first"]),
            make("Concat", [f"{name}_first", f"{name}_second"], [f"{name}_both"], axis=1),
        ]
        sums = f"{name}_both"
    return [
        *new,
        make("Div", [sums, f"{name}_count"], [probabilities]),
        make("ArgMax", [sums], [f"{name}_best"], axis=1, keepdims=0),
        make("Gather", [f"{name}_classes", f"{name}_best"], [label]),
    ]

"""``torch.export``: the program of a module, what it assumed of sizes, and its translation to ONNX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbcloud.models import onnxfile
from nbcloud.models.export.torch.refusals import line_of_trace
from nbcloud.models.signature import Tensor

_LOCATION = re.compile(r"([^\s(]+):(\d+) in ")


@dataclass
class Program:
    """An exported program.

    Parameters
    ----------
    fixed : dict
        Dimensions that were to vary and can't, with where the code needs that size.
    bounds : dict
        For each dimension that varies, the numbers that the code compares its size with.
    places : dict
        For each such dimension, where it does.
    """

    exported: Any
    fixed: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, list[int]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def capture(module: Any, tensors: Sequence[Any], inputs: Sequence[Tensor]) -> Program:
    """Follow the module with sizes as symbols."""
    import torch

    shapes = tuple(
        {
            axis: torch.export.Dim.AUTO if isinstance(size, str) else torch.export.Dim.STATIC
            for axis, size in enumerate(each.shape)
        }
        for each in inputs
    )
    with torch.no_grad():
        exported = torch.export.export(
            module, tuple(tensors), dynamic_shapes={"tensors": shapes}, strict=False
        )
    program = Program(exported)
    _assumptions(program, inputs)
    return program


def _assumptions(program: Program, inputs: Sequence[Tensor]) -> None:
    given = set(program.exported.graph_signature.user_inputs)
    taken = [each for each in program.exported.graph.nodes if each.op == "placeholder" and each.name in given]
    symbols: dict[Any, str] = {}
    environment: Any = None
    sizes: list[tuple[str, str, Any]] = []
    for place, (node, each) in enumerate(zip(taken, inputs, strict=True)):
        for axis, name in enumerate(each.shape):
            if isinstance(name, str):
                size = node.meta["val"].shape[axis]
                environment = node.meta["val"].fake_mode.shape_env
                sizes.append((name, f"L['tensors'][{place}].size()[{axis}]", size))
    for name, source, size in sizes:
        expression = None if isinstance(size, int) else size.node.expr
        if expression is None or not expression.is_Symbol:
            program.fixed[name] = _where_fixed(environment, source)
        elif symbols.setdefault(expression, name) != name:
            program.fixed[name] = f"it is the same as {symbols[expression]!r} in the code"
    if environment is None:
        return
    for guard in environment.guards:
        for symbol in guard.expr.free_symbols & symbols.keys():
            name = symbols[symbol]
            numbers = {int(each) for each in guard.expr.atoms() if each.is_Integer and abs(each) < 2**31}
            program.bounds.setdefault(name, []).extend(sorted(numbers))
            if place_ := _users(str(guard.sloc)):
                program.places.setdefault(name, place_)
    for symbol, name in symbols.items():
        known = environment.var_to_range.get(symbol)
        for bound in () if known is None else (known.lower, known.upper):
            if getattr(bound, "is_Integer", False) and int(bound) < 2**31:
                program.bounds.setdefault(name, []).append(int(bound))


def _where_fixed(environment: Any, source: str) -> str:
    """The place in the code that fixed a size."""
    known = getattr(environment, "source_to_var", {}) if environment is not None else {}
    symbol = known.get(source)
    place = _users(str(getattr(environment, "replacements_slocs", {}).get(symbol, "")))
    return f"the code asks for it ({place})" if place else "the model's operations need it"


def _users(location: str) -> str:
    """The place in a user's file of what torch notes of a guard; empty where it is one of torch's own."""
    import torch

    found = _LOCATION.search(location)
    if found is None or (Path(torch.__file__).parent / found[1]).exists():
        return ""
    cell = "ipykernel" in found[1]
    return f"the cell, line {found[2]}" if cell else f"{Path(found[1]).name}:{found[2]}"


def write(
    program: Program, path: Path, input_names: Sequence[str], output_names: Sequence[str], opset: int | None
) -> Any:
    """Translate it; returns the program whose operations the ONNX model's values are named after."""
    import torch

    made = torch.onnx.export(
        program.exported,
        dynamo=True,
        verbose=False,
        input_names=list(input_names),
        output_names=list(output_names),
        opset_version=opset,
    )
    made.save(str(path), external_data=onnxfile.is_large(made.model_proto))
    return made.exported_program


def told(node: Any) -> str:
    """An operation: what, in which part of the module, and the user's line."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    part = re.sub(r"^L\['self'\]\.?", "", stack[-1]).removeprefix("model").removeprefix(".") if stack else ""
    place = line_of_trace(node.meta.get("stack_trace"))
    name = str(node.target).removeprefix("aten.")
    return f"{name}{f' in {part!r}' if part else ''}{f' ({place})' if place else ''}"


def values(exported: Any, tensors: Sequence[Any], wanted: set[str]) -> Iterator[tuple[str, Any]]:
    """What the operations of a program give, in their order."""
    import torch

    found: dict[str, Any] = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, node: Any) -> Any:
            value = super().run_node(node)
            if node.name in wanted and isinstance(value, torch.Tensor):
                found[node.name] = value.detach().clone()
            return value

    with torch.no_grad():
        Watching(exported.module(check_guards=False)).run(*tensors)
    yield from found.items()

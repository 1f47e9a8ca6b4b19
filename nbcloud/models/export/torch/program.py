"""``torch.export``: the program of a module, what it assumed of sizes, and its translation to ONNX."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbcloud.models import onnxfile
from nbcloud.models.export.torch import sizes
from nbcloud.models.export.torch.refusals import decisions, line_of_trace
from nbcloud.models.signature import Tensor

_SEARCHED, _FOUND = 512, 3
_LOCATION = re.compile(r"([^\s(]+):(\d+) in ")


@dataclass
class Program:
    """An exported program.

    Parameters
    ----------
    fixed : dict
        Dimensions that were to vary and can't, with where the code needs that size.
    bounds : dict
        For each dimension that varies, sizes for which the code may do something else.
    places : dict
        For each such dimension, where it may.
    notes : list of str
    """

    exported: Any
    fixed: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, list[int]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def capture(module: Any, tensors: Sequence[Any], inputs: Sequence[Tensor], name: str) -> Program:
    """Follow the module of that name with sizes as symbols."""
    import torch

    shapes = tuple(
        {
            axis: torch.export.Dim.AUTO if isinstance(size, str) else torch.export.Dim.STATIC
            for axis, size in enumerate(each.shape)
        }
        for each in inputs
    )
    with torch.no_grad(), decisions(name):
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
    found: list[tuple[str, str, Any]] = []
    for number, (node, each) in enumerate(zip(taken, inputs, strict=True)):
        for axis, name in enumerate(each.shape):
            if isinstance(name, str):
                size = node.meta["val"].shape[axis]
                environment = node.meta["val"].fake_mode.shape_env
                found.append((name, f"L['tensors'][{number}].size()[{axis}]", size))
    for name, source, size in found:
        expression = None if isinstance(size, int) else size.node.expr
        if expression is None or not expression.is_Symbol:
            program.fixed[name] = _where_fixed(environment, source)
        elif symbols.setdefault(expression, name) != name:
            program.fixed[name] = f"it is the same as {symbols[expression]!r} in the code"
    if environment is None:
        return
    for guard in environment.guards:
        place = _users(str(guard.sloc))
        for symbol in guard.expr.free_symbols & symbols.keys():
            name = symbols[symbol]
            otherwise = _otherwise(guard.expr, symbol, environment, thorough=bool(place))
            program.bounds.setdefault(name, []).extend(otherwise)
            if place:
                program.places.setdefault(name, place)
            if place and not otherwise:
                program.notes.append(
                    f"Not tried: sizes of {name!r} for which the code decides otherwise ({place})."
                )


def _otherwise(guard: Any, symbol: Any, environment: Any, *, thorough: bool) -> list[int]:
    """Sizes for which an assumption of the program does not hold; others in it are those of the sample."""
    import sympy  # type: ignore[import-untyped]  # comes with torch

    known = getattr(environment, "backed_var_to_val", None) or environment.var_to_val
    alone = guard.xreplace({other: known[other] for other in guard.free_symbols - {symbol} if other in known})
    numbers = {int(each) for each in alone.atoms() if each.is_Integer and abs(each) <= sizes.LARGEST}
    near = sorted({number + step for number in numbers for step in (-1, 0, 1)})
    found: list[int] = []
    for size in dict.fromkeys([*near, *(range(2, _SEARCHED) if thorough else ())]):
        with contextlib.suppress(ArithmeticError):  # a modulo by what is zero for that size
            if size > 1 and alone.xreplace({symbol: sympy.Integer(size)}) == False:  # noqa: E712 - sympy's
                found.append(size)
        if len(found) == _FOUND:
            break
    return found


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
        custom_translation_table=_translations(),
    )
    made.save(str(path), external_data=onnxfile.is_large(made.model_proto))
    return made.exported_program


def _translations() -> dict[Any, Any]:
    """For operators that torch's own translations of answer otherwise, in a part of their range."""
    import torch
    from onnxscript import opset18 as op

    def log_sigmoid(x: Any) -> Any:  # the logarithm of a sigmoid that is 0 has no end
        return op.Neg(op.Softplus(op.Neg(x)))

    return {torch.ops.aten.log_sigmoid.default: log_sigmoid}


def operations(exported: Any, output_names: Sequence[str]) -> dict[str, Any]:
    """The program's operations, in their order, by the names of their values in ONNX."""
    (last,) = (node for node in exported.graph.nodes if node.op == "output")
    given = [each.name for each in last.args[0]][-len(output_names) :]
    called = dict(zip(given, output_names, strict=False))
    return {
        called.get(node.name, node.name): node for node in exported.graph.nodes if node.op == "call_function"
    }


def told(node: Any) -> str:
    """An operation: what, in which part of the module, and the user's line."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    part = re.sub(r"^L\['self'\]\.?", "", stack[-1]).removeprefix("model").removeprefix(".") if stack else ""
    place = line_of_trace(node.meta.get("stack_trace"))
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name}{f' in {part!r}' if part else ''}{f' ({place})' if place else ''}"


def values(
    exported: Any, tensors: Sequence[Any], output_names: Sequence[str], wanted: set[str]
) -> Iterator[tuple[str, Any]]:
    """What the operations of a program give, in their order."""
    import torch

    found: dict[str, Any] = {}
    called = {node.name: name for name, node in operations(exported, output_names).items()}

    class Watching(torch.fx.Interpreter):
        def run_node(self, node: Any) -> Any:
            value = super().run_node(node)
            name = called.get(node.name)
            if name in wanted and isinstance(value, torch.Tensor):
                found[name] = value.detach().clone()
            return value

    with torch.no_grad():
        Watching(exported.module(check_guards=False)).run(*tensors)
    yield from found.items()

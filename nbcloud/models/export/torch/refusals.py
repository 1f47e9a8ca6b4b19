"""Why a module can't become ONNX, in a sentence, with the line of the user's code."""

from __future__ import annotations

import contextlib
import linecache
import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbcloud.errors import ExportError

_OURS = str(Path(__file__).parent)
_STANDARD = sysconfig.get_path("stdlib")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_BRANCH = "decides by the values of its input"
_ASKING = ("__torch_function__", "__bool__", "__int__", "__float__", "__index__", "__len__")
"""What stands between a line that asks for a value and the symbol that has none."""
_TRACED = ("Converting a tensor to a", "Iterating over a tensor", "Using len to get tensor shape")
"""What the older exporter warns of when it records one of several ways."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters log and warn for their developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [(logger, logger.level) for logger in loggers]
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("torch.") and isinstance(logger, logging.Logger) and logger.level:
            before.append((logger, logger.level))
    for logger, _ in before:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def line(file: str, number: int) -> str:
    """A place in code, as people look for it: ``net.py:12: `if x.sum() > 0:```."""
    cell = "ipykernel" in file or file.startswith("<ipython")
    code = linecache.getline(file, number).strip()
    place = f"the cell, line {number}" if cell else f"{file}:{number}"
    return f"{place}: `{code[:80]}`" if code else place


def line_of_trace(trace: str | None) -> str:
    """The last line of a trace, as torch keeps it in text, that is not torch's own."""
    found = [(file, int(number)) for file, number in _FRAME.findall(trace or "") if _is_users(file)]
    return line(*found[-1]) if found else ""


def line_of_error(error: BaseException) -> str:
    """The last line of the user's that an error came through."""
    chain: BaseException | None = error
    while chain is not None:
        frames = [each for each in traceback.extract_tb(chain.__traceback__) if _is_users(each.filename)]
        if frames:
            return line(frames[-1].filename, frames[-1].lineno or 0)
        chain = chain.__cause__ or chain.__context__
    return ""


def _is_users(file: str) -> bool:
    import torch

    inside = (str(Path(torch.__file__).parent), _OURS)
    if file.startswith(inside) or (file.startswith("<") and not file.startswith("<ipython")):
        return False
    if "/onnxscript/" in file or "/onnx_ir/" in file or file.endswith("/nbcloud/models/export/__init__.py"):
        return False
    return not file.startswith(_STANDARD) or "site-packages" in file


def is_branch(error: BaseException) -> bool:
    """Whether the code decides by values, which no size that is fixed could mend."""
    return isinstance(error, ExportError) and _BRANCH in error.message


def refusal(model: str, error: BaseException, program: Any = None) -> ExportError:
    """What an exporter's error means.

    Parameters
    ----------
    model : str
        The module's class.
    program : torch.export.ExportedProgram, optional
        Where there is one, its nodes know their lines.
    """
    if isinstance(error, ExportError):
        return error
    chain = _chain(error)
    text = "\n".join(str(each) for each in chain)
    where = line_of_error(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__ or "unbacked" in text:
        return ExportError(
            f"{model} {_BRANCH}{_at(where)}, which a graph can't follow.",
            "Use torch.where there, or torch.cond for whole branches.",
            line=where,
        )
    if _is_packed(error):
        return ExportError(
            f"{model} gives packed sequences to a recurrent layer{_at(where)}, which a graph can't have.",
            "Give it the padded batch, and take each row's last step: "
            "output[torch.arange(len(lengths)), lengths - 1]",
            line=where,
        )
    operator, place = _operator(chain, program)
    if operator:
        return ExportError(
            f"ONNX, as torch writes it, has no {operator}, which {model} uses{_at(place or where)}.",
            "Write it with other operations, or export the part of the model before it.",
            operator=operator,
            line=place or where,
        )
    return ExportError(
        f"{model} can't become ONNX{_at(where)}: {first_line(chain[-1] if where else chain[0])}",
        "Change that line, or give the model a simpler forward for the export."
        if where
        else "Give the model a simpler forward for the export.",
        line=where,
    )


def refuse_modules(model: Any) -> None:
    """Refuse a part that ONNX has no operator for, and that the exporters write as something else.

    Raises
    ------
    ExportError
        Names the part.
    """
    import torch

    for name, part in model.named_modules():
        where = f" ({name})" if name else ""
        if isinstance(part, torch.nn.LSTM) and part.proj_size:
            raise ExportError(
                f"ONNX's LSTM has no projection, and the model's LSTM{where} has proj_size={part.proj_size}.",
                "Train it without proj_size; a Linear behind the LSTM makes its output smaller.",
            )
        if isinstance(part, torch.nn.CrossMapLRN2d):
            raise ExportError(
                f"CrossMapLRN2d{where} is no operation that an exporter can follow.",
                "Train it with LocalResponseNorm in its place, which is much the same, but not to the digit.",
            )


def doubt(model: Any) -> str:
    """What a difference most likely comes from."""
    import torch

    for name, part in model.named_modules():
        if isinstance(part, torch.nn.TransformerEncoder) and part.use_nested_tensor:
            return (
                f"torch's TransformerEncoder ({name or 'the model'}) gives zeros where src_key_padding_mask "
                "says so, which no exporter does; its use_nested_tensor = False ends that."
            )
    return ""


@contextlib.contextmanager
def decisions(model: str) -> Iterator[None]:
    """Refuse a module that asked for a value while it was followed, and went on by an ``except`` of its own.

    What torch raises there ends the export otherwise; caught, one of several ways would pass for all.
    """
    from torch.fx.experimental import symbolic_shapes

    kind = symbolic_shapes.GuardOnDataDependentSymNode
    make = kind.__init__
    asked: list[str] = []

    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        asked.extend(filter(None, [_who_asks()]))

    kind.__init__ = note
    try:
        yield
    finally:
        kind.__init__ = make
    if asked:
        raise ExportError(
            f"{model} {_BRANCH}{_at(asked[0])}, which a graph can't follow, and passes over torch's error.",
            "Use torch.where there, or torch.cond for whole branches.",
            line=asked[0],
        )


def _who_asks() -> str:
    """The user's line that asks a tensor for its value; empty where one of torch's own functions does."""
    frames = traceback.extract_stack()[::-1]
    last = max((at for at, each in enumerate(frames) if each.filename.endswith("sym_node.py")), default=None)
    if last is None:
        return ""
    outside = (each for each in frames[last + 1 :] if each.name not in _ASKING)
    first = next(outside, None)
    return line(first.filename, first.lineno or 0) if first and _is_users(first.filename) else ""


def traced(model: str, caught: list[warnings.WarningMessage]) -> ExportError | None:
    """The refusal of a recording that took one of several ways."""
    for each in caught:
        if str(each.message).startswith(_TRACED) and _is_users(each.filename):
            where = line(each.filename, each.lineno)
            return ExportError(
                f"{model} {_BRANCH}, or of its sizes{_at(where)}, which the legacy exporter can't follow.",
                "Use torch.where there, or torch.cond for whole branches.",
                line=where,
            )
    return None


def _is_packed(error: BaseException) -> bool:
    """Whether a recurrent layer failed on what ``pack_padded_sequence`` made."""
    return any(
        frame.f_code.co_filename.endswith("rnn.py") and frame.f_locals.get("batch_sizes") is not None
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (inner := found[-1].__cause__) is not None:
        found.append(inner)
    return found


def _operator(chain: list[BaseException], program: Any) -> tuple[str, str]:
    """The operator without a counterpart, and the line that uses it."""
    for error in chain:
        text = str(error)
        node = re.search(r"Error when translating node %(\w+)", text)
        target = re.search(r"target=torch\.ops\.([\w.]+)", text) or re.search(
            r"(?:No ONNX function found for <OpOverload\(op='|operator ')((?:aten|prims|\w+)[.:]+[\w.]+)",
            text,
        )
        if target is None:
            continue
        place = ""
        for each in _nodes(program):
            if (node and each.name == node[1]) or str(each.target) == target[1]:
                place = line_of_trace(each.meta.get("stack_trace")) or place
        return target[1].replace("::", "."), place
    return "", ""


def _nodes(program: Any) -> list[Any]:
    """The operations of a program, and what they are made of."""
    if program is None:
        return []
    with contextlib.suppress(Exception):  # the operation is told without its line, then
        return [*program.graph.nodes, *program.run_decompositions().graph.nodes]
    return [*program.graph.nodes]


def first_line(error: BaseException) -> str:
    """Its kind and the first line of what it says, as a sentence."""
    lines = [each.strip() for each in str(error).splitlines() if each.strip()]
    text = lines[0] if lines else "no reason given"
    return f"{type(error).__name__}: {text[:300].rstrip('.')}."

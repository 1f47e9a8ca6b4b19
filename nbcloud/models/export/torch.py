"""torch: any module, whatever it takes and gives."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud import extras
from nbcloud.errors import ExportError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.export.base import Conversion, Options
from nbcloud.models.signature import Feeds, Tensor

OPSET = 18
"""What torch's exporter writes; others it would translate to."""

LEGACY, RANGES, FIXED = "legacy", "dynamo, any range", "dynamo, fixed sizes"
attempts = ("dynamo", RANGES, LEGACY, FIXED)
"""``torch.export``, which follows the program, for all sizes, then for those that the program takes;
TorchScript, which records one run of it; ``torch.export`` with sizes fixed where the program needs them."""

_LINE = re.compile(r'File "([^"]+)", line (\d+)')
_LOGGERS = ("torch", "onnxscript", "onnx_ir")


def accepts(model: Any) -> bool:
    """Whether this is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def adapt(model: Any, sample: Any, options: Options) -> TorchModel:
    """The module with its sample."""
    extras.check("onnxscript", "to export torch models")
    return TorchModel(model, sample, options)


class TorchModel:
    """A module, in evaluation mode while it is asked.

    Parameters
    ----------
    sample : tensor, array, or a tuple or mapping of such
        What ``forward`` takes; by the names of its arguments in a mapping. The first dimension varies when
        all have the same, and so does the second one of whole numbers (tokens): see `Options.dynamic`.
    """

    framework = "torch"

    def __init__(self, model: Any, sample: Any, options: Options) -> None:
        import torch

        if isinstance(model, torch.jit.ScriptModule):
            raise ExportError("A ScriptModule can't be exported.", "Export the module that it was made from.")
        self._model = _on_cpu(model)
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self._keywords = isinstance(sample, Mapping)
        arguments = self._arguments(sample)
        names = list(arguments)
        if options.input_names is not None:
            if len(options.input_names) != len(names):
                raise UsageError(
                    f"{len(options.input_names)} input names were given, and the model takes {len(names)}.",
                    f"They are: {', '.join(names)}.",
                )
            names = list(options.input_names)
        self._parameters = dict(zip(names, arguments, strict=True))
        self._types = {name: value.dtype for name, value in zip(names, arguments.values(), strict=True)}
        self.feeds: Feeds = {
            name: _array(value) for name, value in zip(names, arguments.values(), strict=True)
        }
        self.inputs = self._inputs(options)
        self.versions = _versions("torch", "onnxscript")
        self._names = self._output_names(options)
        self._program: Any = None

    def _arguments(self, sample: Any) -> dict[str, Any]:
        """The tensors of the sample, by the names of forward's parameters."""
        import torch

        if isinstance(sample, Mapping):
            given = {str(name): value for name, value in sample.items()}
        else:
            values = list(sample) if isinstance(sample, (tuple, list)) else [sample]
            taken = [
                parameter.name
                for parameter in inspect.signature(self._model.forward).parameters.values()
                if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            ]
            taken += [f"input{place}" for place in range(len(taken), len(values))]
            given = dict(zip(taken, values, strict=False))
        made = {}
        for name, value in given.items():
            tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else None
            if tensor is None:
                try:
                    tensor = torch.as_tensor(np.asarray(value))
                except (TypeError, ValueError) as error:
                    raise ExportError(
                        f"The sample's {name!r} is no tensor: {error}.",
                        "Give tensors or arrays of numbers; fix others by a small module around yours.",
                    ) from None
                if tensor.is_floating_point():  # numpy's are double unless one says otherwise
                    tensor = tensor.to(self._dtype)
            if tensor.is_complex():
                raise ExportError(
                    f"The sample's {name!r} is complex, which ONNX has no operators for.",
                    "Take its real and imaginary part as two inputs.",
                )
            made[name] = tensor
        return made

    def _inputs(self, options: Options) -> tuple[Tensor, ...]:
        shapes: dict[str, list[int | str]] = {name: [*value.shape] for name, value in self.feeds.items()}
        if isinstance(options.dynamic, Mapping):
            for name, axes in options.dynamic.items():
                if name not in shapes:
                    raise UsageError(f"There is no input {name!r}.", f"There are: {', '.join(shapes)}.")
                for axis, size in axes.items():
                    if not 0 <= axis < len(shapes[name]):
                        raise UsageError(f"The input {name!r} has no dimension {axis}.")
                    shapes[name][axis] = size
        elif options.dynamic is not False:
            firsts = {shape[0] for shape in shapes.values() if shape}
            tokens = {
                shape[1]
                for name, shape in shapes.items()
                if len(shape) == 2 and self.feeds[name].dtype.kind in "iub"
            }
            for name, shape in shapes.items():
                if len(tokens) == 1 and len(shape) == 2 and self.feeds[name].dtype.kind in "iub":
                    shape[1] = "length"
                if len(firsts) == 1 and shape:
                    shape[0] = "batch"
        return tuple(
            Tensor(name, str(self.feeds[name].dtype), tuple(shape)) for name, shape in shapes.items()
        )

    # Its answers

    def predict(self, feeds: Feeds) -> Feeds:
        """The module's own answers; whatever it returns, flat: ``output``, or ``logits``, ``hidden.0``, …"""
        with _evaluating(self._model):
            values = _flat(self._call(self._tensors(feeds)))
        return {name: _array(value) for name, value in zip(self._names, values.values(), strict=True)}

    def _tensors(self, feeds: Feeds) -> list[Any]:
        import torch

        return [
            torch.as_tensor(np.ascontiguousarray(feeds[name])).to(dtype)
            for name, dtype in self._types.items()
        ]

    def _call(self, tensors: Sequence[Any]) -> Any:
        if self._keywords:
            return self._model(**dict(zip(self._parameters.values(), tensors, strict=True)))
        return self._model(*tensors)

    def _output_names(self, options: Options) -> list[str]:
        with _evaluating(self._model):
            try:
                once, again = (_flat(self._call(self._tensors(self.feeds))) for _ in range(2))
            except Exception as error:
                raise ExportError(
                    f"The model refuses the sample: {type(error).__name__}: {str(error).splitlines()[0]}",
                    "Give it as forward takes it: a tensor, a tuple of tensors, or a mapping by names.",
                ) from error
        if not once:
            raise ExportError("The model returns no tensor.")
        for name, value in once.items():
            if value.is_complex():
                raise ExportError(
                    f"The output {name!r} is complex, which ONNX has no operators for.",
                    "Return its real and imaginary part.",
                )
            same = (value == again[name]) | (value != value)
            if value.shape != again[name].shape or not bool(same.all()):
                raise ExportError(
                    f"The model answers differently on the same input (output {name!r}), also in evaluation "
                    "mode: it draws random numbers.",
                    "Draw them outside, and give them as an input.",
                )
        names = list(options.output_names or once)
        if len(names) != len(once):
            raise UsageError(
                f"{len(names)} output names were given, and the model has {len(once)} outputs.",
                f"They are: {', '.join(once)}.",
            )
        return names

    # Its export

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the module as ONNX; the last attempt fixes what its code fixes, with a note."""
        import torch

        notes: list[str] = []
        model = self._model
        precision = "bfloat16" if torch.bfloat16 in {p.dtype for p in model.parameters()} else ""
        if precision:
            model = copy.deepcopy(model).float()
            notes.append("bfloat16 weights are written as float32: onnxruntime's CPU has no bfloat16.")
        opset = options.opset or OPSET
        failed: Exception | None = None
        for fixed in _fixings(self.inputs) if attempt == FIXED else [set[str]()]:
            inputs = tuple(replace(each, shape=_fix(each, self.feeds, fixed)) for each in self.inputs)
            try:
                self._write(model, path, inputs, attempt, opset, widened=bool(precision))
            except Exception as error:  # noqa: BLE001 - torch's exporters have many, of no common kind
                failed = failed or error
                continue
            if fixed:
                dims = " and ".join(sorted(fixed))
                notes.append(f"Fixed to the sample's size, because the model's code depends on it: {dims}.")
            made = self._finish(path)
            outputs = tuple(_output(each, options.labels) for each in made.graph.output)
            exporter = f"torch {torch.__version__}, {attempt}"
            return Conversion(path, inputs, outputs, exporter, opset, self._steps(made), notes, precision)
        raise _refused(failed, attempt) from failed

    def _write(
        self, model: Any, path: Path, inputs: tuple[Tensor, ...], attempt: str, opset: int, *, widened: bool
    ) -> None:
        import torch

        flat = _around(model, list(self._parameters.values()) if self._keywords else None)
        tensors = tuple(
            _grown(tensor.float() if widened and tensor.dtype == torch.bfloat16 else tensor, each.shape)
            for tensor, each in zip(self._tensors(self.feeds), inputs, strict=True)
        )
        axes = [
            {axis: size for axis, size in enumerate(each.shape) if isinstance(size, str)} for each in inputs
        ]
        names: dict[str, Any] = {
            "opset_version": opset,
            "input_names": [each.name for each in inputs],
            "output_names": self._names,
        }
        self._program = None
        self._sizes: dict[str, str] = {}
        with _evaluating(flat), _quiet():
            if attempt == LEGACY:
                dynamic = {each.name: axis for each, axis in zip(inputs, axes, strict=True) if axis}
                # What tracing could not follow it warns of, and goes on with the sample's values.
                warnings.simplefilter("error", torch.jit.TracerWarning)
                torch.onnx.export(flat, tensors, str(path), dynamo=False, dynamic_axes=dynamic, **names)
                return
            named = {
                size: torch.export.Dim.AUTO if attempt == RANGES else torch.export.Dim(size)
                for each in axes
                for size in each.values()
            }
            shapes = tuple({axis: named[size] for axis, size in each.items()} for each in axes)
            program = torch.export.export(flat, tensors, dynamic_shapes={"tensors": shapes}, strict=False)
            self._sizes = _symbols(program, axes)
            made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True, **names)
            made.save(str(path), external_data=onnxfile.is_large(made.model_proto))
        self._program = program

    def _finish(self, path: Path) -> Any:
        """Name sizes as the inputs do; leave out shapes of values inside, which later tools would believe."""
        model = onnxfile.load(path, weights=False)
        if self._program is not None:
            del model.graph.value_info[:]
        for value in model.graph.output:
            for size in value.type.tensor_type.shape.dim:
                if not size.dim_param:
                    continue
                for symbol, name in self._sizes.items():
                    size.dim_param = re.sub(rf"\b{symbol}\b", name, size.dim_param)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return model

    # Where it went wrong

    def _steps(self, made: Any) -> dict[str, str]:
        if self._program is None:
            return {}
        inside = {name for node in made.graph.node for name in node.output}
        return {
            node.name: _told(node)
            for node in self._program.graph.nodes
            if node.op == "call_function" and node.name in inside
        }

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """What each operation of the exported program gives."""
        import torch

        wanted, found = set(names), dict[str, Any]()

        class Watching(torch.fx.Interpreter):
            def run_node(self, node: Any) -> Any:
                value = super().run_node(node)
                if node.name in wanted and isinstance(value, torch.Tensor):
                    found[node.name] = _array(value)
                return value

        with torch.no_grad():
            Watching(self._program.module()).run(*self._tensors(feeds))
        for name in names:
            if name in found:
                yield name, found[name]


def _around(model: Any, parameters: list[str] | None) -> Any:
    """A module around another, that takes tensors and gives a tuple of tensors."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            if parameters is None:
                return tuple(_flat(self.model(*tensors)).values())
            return tuple(_flat(self.model(**dict(zip(parameters, tensors, strict=True)))).values())

    return Flat()


def _symbols(program: Any, axes: list[dict[int, str]]) -> dict[str, str]:
    """What the program calls each size that varies; an error for one that it has fixed."""
    given = set(program.graph_signature.user_inputs)
    taken = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in given]
    names: dict[str, str] = {}
    for node, dynamic in zip(taken, axes, strict=True):
        for axis, name in dynamic.items():
            size = node.meta["val"].shape[axis]
            if isinstance(size, int):
                raise ValueError(f"the model's code fixes {name} to {size}")
            names[str(size)] = name
    return names


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """All tensors of what a module returns, by where they stand in it."""
    import torch

    if isinstance(value, torch.Tensor):
        return {name or "output": value}
    parts: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        parts = [(str(key), each) for key, each in value.items()]
    elif hasattr(value, "_asdict"):
        parts = [*value._asdict().items()]
    elif isinstance(value, (tuple, list)):
        parts = [(str(place) if name else f"output{place}", each) for place, each in enumerate(value)]
    elif hasattr(value, "__dataclass_fields__"):
        parts = [(key, getattr(value, key)) for key in value.__dataclass_fields__]
    found: dict[str, Any] = {}
    for key, each in parts:
        found |= _flat(each, f"{name}.{key}" if name else key)
    return found


def _fixings(inputs: tuple[Tensor, ...]) -> list[set[str]]:
    """Which dimensions to fix: all but the batch; then all."""
    varying = {size for each in inputs for size in each.shape if isinstance(size, str)}
    tries = [varying - {"batch"}, varying]
    return [fixed for place, fixed in enumerate(tries) if fixed and fixed not in tries[:place]]


def _fix(tensor: Tensor, feeds: Feeds, fixed: set[str]) -> tuple[int | str, ...]:
    shape = feeds[tensor.name].shape
    return tuple(shape[axis] if size in fixed else size for axis, size in enumerate(tensor.shape))


def _grown(tensor: Any, shape: tuple[int | str, ...]) -> Any:
    """The tensor with two of each dimension that varies, at least: one alone counts as fixed."""
    import torch

    for axis, size in enumerate(shape):
        if isinstance(size, str) and tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], dim=axis)
    return tensor


def _array(tensor: Any) -> Any:
    import torch

    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _on_cpu(model: Any) -> Any:
    tensors = (*model.parameters(), *model.buffers())
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return model
    return copy.deepcopy(model).cpu()


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """The module without training and gradients; afterwards every part of it is as it was."""
    import torch

    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters speak to their developers."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _output(value: Any, labels: Sequence[int | str] | None) -> Tensor:
    import onnx

    tensor = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(
        size.dim_value or size.dim_param or f"size{place}" for place, size in enumerate(tensor.shape.dim)
    )
    known = tuple(labels or ()) if shape and shape[-1] == len(labels or ()) else ()
    return Tensor(value.name, dtype, shape, labels=known)


def _told(node: Any) -> str:
    """An operation of the program: what, in which part of the module, and the user's line."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    part = stack[-1].removeprefix("L['self'].").removeprefix("model.").removeprefix("model") if stack else ""
    line = _users_line(node.meta.get("stack_trace") or "")
    where = f" in {part!r}" if part else ""
    return f"{getattr(node.target, '__name__', node.target)}{where}{f', {line}' if line else ''}"


def _users_line(trace: str) -> str:
    """The last line of a trace that is not torch's nor ours."""
    lines = [
        (file, line)
        for file, line in _LINE.findall(trace)
        if "site-packages" not in file and "/nbcloud/models/" not in file and "lib/python3" not in file
    ]
    return f"{lines[-1][0]}:{lines[-1][1]}" if lines else ""


def _refused(error: Exception | None, attempt: str) -> ExportError:
    if error is None:
        return ExportError("The model has no size that could be fixed.")
    text = str(error)
    line = _users_line(text) or _users_line(_trace(error))
    where = f" at {line}" if line else ""
    decides = ("data-dependent", "Could not guard", "Python boolean", "Python number", "Python integer")
    if any(each in text for each in decides):
        return ExportError(
            f"The model's code decides by values{where}, which an ONNX graph can't follow.",
            "Write that with torch.where or torch.cond.",
            line=line,
        )
    if found := re.search(r"(aten[.:]+[\w.:]+|prims[.:]+[\w.:]+|torchvision[.:]+[\w.:]+)", text):
        return ExportError(
            f"The operation {found[1].rstrip('.')}{where} has no counterpart in ONNX ({attempt}).",
            "Use another operation in its place, or export the part before it.",
            line=line,
        )
    first = next((each.strip() for each in text.splitlines() if each.strip()), type(error).__name__)
    return ExportError(
        f"The model can't become ONNX{where} ({attempt}): {first[:300].rstrip('.')}.",
        "Try the other exporter, a simpler forward, or other operations.",
        line=line,
    )


def _trace(error: BaseException | None) -> str:
    import traceback

    return "" if error is None else "".join(traceback.format_exception(error))


def _versions(*packages: str) -> dict[str, str]:
    from importlib import metadata

    return {package: metadata.version(package) for package in packages}

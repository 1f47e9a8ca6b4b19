"""A torch module with a sample of what it takes."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from nbcloud.errors import ExportError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models import sizes as dimensions
from nbcloud.models.export.torch import files, module, program, resizing, script, sizes, structure
from nbcloud.models.export.torch.refusals import (
    doubt,
    first_line,
    is_branch,
    line_of_error,
    quiet,
    refusal,
    refuse_modules,
)
from nbcloud.models.exportable import Conversion, Options
from nbcloud.models.signature import Feeds, Tensor
from nbcloud.models.verify.compare import TOLERANCES, difference

FIXED = "fixed sizes"
"""The attempts that may fix sizes which were to vary."""


class TorchModel:
    """A module: a copy of it in evaluation mode, on the CPU, that shares its weights where it can.

    Parameters
    ----------
    sample : tensor, array, tuple, mapping or list
        What ``forward`` takes: a tuple has its arguments, a mapping those by name, a list several samples of
        the same kind. The first dimension varies when it is the same of all inputs, and so does the second of
        whole numbers (tokens); others vary where samples differ, or by `Options.dynamic`.
    """

    framework = "torch"

    def __init__(self, model: Any, sample: Any, options: Options) -> None:
        import torch

        if isinstance(model, torch.jit.ScriptModule):
            raise ExportError(
                "A TorchScript module can't be exported: its Python code is gone.",
                "Export the module that it was made from.",
            )
        model = getattr(model, "_orig_mod", model)  # what torch.compile gives
        if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            model = model.module
        refuse_modules(model)
        self._name = type(model).__name__
        self._dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), None)
        self._model = module.copied(model)
        self.versions = {package: metadata.version(package) for package in ("torch", "onnxscript")}
        samples = sample if isinstance(sample, list) else [sample]
        read = [structure.read(self._model, each, self._dtype) for each in samples]
        if not read:
            raise ExportError("The sample is an empty list.", "Give at least one sample.")
        self._call, first = read[0]
        if any(call.names != self._call.names for call, _ in read):
            raise ExportError(
                "The samples of the list are not of the same kind.",
                "Several samples are a list; several arguments of forward are a tuple.",
            )
        names = _names(options.input_names, self._call.names, "input")
        self._types = [each.dtype for each in first]
        feeds = [dict(zip(names, map(module.array, tensors), strict=True)) for _, tensors in read]
        self.feeds: Feeds = feeds[0]
        empty = [name for name, value in self.feeds.items() if value.size == 0]
        if empty:
            raise ExportError(f"The sample's {empty[0]!r} has no values.", "Give a few rows of real data.")
        shapes, self._notes = sizes.varying(feeds, options)
        self._notes += [f"Part of the model, and no input: {each}." for each in self._call.constants]
        self._asked = isinstance(options.dynamic, Mapping)
        self.inputs = tuple(
            Tensor(name, str(value.dtype), shapes[name]) for name, value in self.feeds.items()
        )
        self._outputs = self._answers_of(options)
        self._exported: Any = None
        self._assumed: list[str] = []
        self._found_fixed: dict[str, dict[str, str]] = {}

    def _answers_of(self, options: Options) -> list[str]:
        """The outputs' names; the model has to answer the same sample the same way twice."""
        with quiet():
            try:
                once, left = structure.answers(self._answer(self.feeds))
                again, _ = structure.answers(self._answer(self.feeds))
            except ExportError:
                raise
            except Exception as error:
                where = line_of_error(error)
                raise ExportError(
                    f"The model refuses the sample{f' ({where})' if where else ''}: {first_line(error)}",
                    "Give it as forward takes it: a tensor, a tuple of tensors, or a mapping by names.",
                ) from error
        if not once:
            raise ExportError(
                f"{self._name} gives no tensor{f', but {left[0]}' if left else ''}.",
                "Return a tensor, or a tuple, list, mapping or dataclass of tensors.",
            )
        for name, value in once.items():
            if (
                difference(name, module.array(again.get(name)), module.array(value), self._precision).amount
                > 1
            ):
                raise ExportError(
                    f"{self._name} answers differently on the same input (output {name!r}), also in "
                    "evaluation mode: it draws random numbers, or remembers what it saw.",
                    "Give the random numbers, or the state, as inputs of forward.",
                )
        self._notes += [f"Left out, since it is no tensor: {each}." for each in left]
        self._keys = list(once)
        found = _names(options.output_names, self._keys, "output")
        return [f"{name}_output" if name in self.feeds else name for name in found]

    @property
    def _precision(self) -> str:
        """The least precise type of the weights."""
        types = {str(each.dtype).removeprefix("torch.") for each in self._model.parameters()}
        types |= {str(each).removeprefix("torch.") for each in self._types}
        known = [name for name in TOLERANCES if name in types]
        return known[-1] if known else "float32"

    def _tensors(self, feeds: Feeds) -> list[Any]:
        import torch

        pairs = zip(feeds.values(), self._types, strict=True)
        return [torch.tensor(value).to(dtype) for value, dtype in pairs]

    def _answer(self, feeds: Feeds) -> Any:
        import torch

        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.seed()
            return self._call(self._model, self._tensors(feeds))

    def predict(self, feeds: Feeds) -> Feeds:
        """The module's own answers; those by their own keys which it did not give for the sample."""
        given = {each.name: feeds[each.name] for each in self.inputs}
        with quiet():
            found, _ = structure.answers(self._answer(given))
        called = dict(zip(self._keys, self._outputs, strict=True))
        return {called.get(key, key): module.array(value) for key, value in found.items()}

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the module as ONNX; sizes that turn out to be part of its code are fixed, with a note.

        Raises
        ------
        ExportError
            Also when sizes had to be fixed and ``attempt`` does not say so: another exporter may do better.
        """
        exporter, _, may_fix = attempt.partition(", ")
        fixed = self._found_fixed.setdefault(exporter, {})
        while True:
            inputs = self._fixed(fixed)
            new, outputs = self._tried(path, inputs, options, exporter)
            if not new:
                break
            if self._asked:
                raise _stands(new)
            fixed |= new
        if fixed and not may_fix:
            raise _stands(fixed)
        return self._conversion(path, inputs, outputs, exporter, fixed)

    def _tried(
        self, path: Path, inputs: tuple[Tensor, ...], options: Options, exporter: str
    ) -> tuple[dict[str, str], list[tuple[int | str, ...]]]:
        """Write it with these sizes; returns those that can't vary, and the shapes of the outputs."""
        try:
            with quiet(), contextlib.redirect_stderr(io.StringIO()):
                new, assumed = self._write(path, inputs, options, exporter)
            if new:
                return new, []
            files.finish(path, inputs, options.opset)
            found = resizing.compare(
                files.session(path, self._name, self._precision),
                self.predict,
                inputs,
                self._outputs,
                self.feeds,
                self._precision,
                assumed,
            )
            self._assumed += found.notes
            return found.wrong, found.shapes
        except ExportError as error:
            varying = dimensions.names(inputs)
            if self._asked or is_branch(error) or not varying:
                raise
            # What has no counterpart for all sizes may have one for a single size.
            rest = [name for name in varying if name != "batch"] or varying
            return {name: f"with a varying one, {error.message.rstrip('.')}" for name in rest}, []

    def _fixed(self, fixed: dict[str, str]) -> tuple[Tensor, ...]:
        return tuple(
            replace(
                each,
                shape=tuple(
                    self.feeds[each.name].shape[axis] if size in fixed else size
                    for axis, size in enumerate(each.shape)
                ),
            )
            for each in self.inputs
        )

    def _write(
        self, path: Path, inputs: tuple[Tensor, ...], options: Options, exporter: str
    ) -> tuple[dict[str, str], program.Program | None]:
        """Have an exporter write it; returns the sizes that can't vary."""
        model = self._model
        if self._precision == "bfloat16":
            model = copy.deepcopy(model).float()
        flat = module.flat(model, self._call)
        feeds = self.feeds
        for name in dimensions.names(inputs):  # one alone counts as fixed
            if dimensions.size_of(inputs, feeds, name) < 2:
                feeds = dimensions.resized(inputs, feeds, name, 2)
        tensors = [
            each.float() if self._precision == "bfloat16" and each.is_floating_point() else each
            for each in self._tensors(feeds)
        ]
        self._exported, self._assumed = None, []
        made: program.Program | None = None
        try:
            if exporter == "legacy":
                script.write(flat, tensors, path, inputs, self._outputs, options.opset, self._name)
                return {}, None
            made = program.capture(flat, tensors, inputs, self._name)
            self._assumed = made.notes
            if not made.fixed:
                self._exported = program.write(
                    made, path, [each.name for each in inputs], self._outputs, options.opset
                )
        except Exception as error:
            raise refusal(self._name, error, made.exported if made else None) from error
        return made.fixed, made

    def _conversion(
        self,
        path: Path,
        inputs: tuple[Tensor, ...],
        shapes: list[tuple[int | str, ...]],
        exporter: str,
        fixed: dict[str, str],
    ) -> Conversion:
        import torch

        notes = list(dict.fromkeys([*self._notes, *self._assumed]))
        for name, why in fixed.items():
            notes.append(f"{name!r} is fixed at {dimensions.size_of(self.inputs, self.feeds, name)}: {why}.")
        if self._precision == "bfloat16":
            notes.append("Weights in bfloat16 are written as float32: onnxruntime's CPU has no bfloat16.")
        model = onnxfile.load(path, weights=False)
        outputs = [
            files.described(value, shape) for value, shape in zip(model.graph.output, shapes, strict=True)
        ]
        inside = {name for node in model.graph.node for name in node.output}
        made = program.operations(self._exported, self._outputs) if self._exported is not None else {}
        steps = {name: program.told(node) for name, node in made.items() if name in inside}
        return Conversion(
            path,
            inputs,
            tuple(outputs),
            f"torch {torch.__version__}, {exporter}",
            files.opset(model),
            steps,
            notes,
            "bfloat16" if self._precision == "bfloat16" else "",
            doubt=doubt(self._model),
        )

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """What each operation of the exported program gives."""
        given = {each.name: feeds[each.name] for each in self.inputs}
        tensors = [
            each.float() if self._precision == "bfloat16" and each.is_floating_point() else each
            for each in self._tensors(given)
        ]
        with quiet():
            for name, value in program.values(self._exported, tensors, self._outputs, set(names)):
                yield name, module.array(value)


def _stands(fixed: Mapping[str, str]) -> ExportError:
    name, why = next(iter(fixed.items()))
    return ExportError(
        f"The dimension {name!r} can't vary: {why}.",
        "Leave it out of dynamic=, or change that part of the model.",
    )


def _names(asked: Sequence[str] | None, known: list[str], kind: str) -> list[str]:
    if asked is None:
        return known
    if len(asked) != len(known):
        raise UsageError(
            f"{len(asked)} {kind} names were given, and the model has {len(known)} {kind}s.",
            f"They are: {', '.join(known)}.",
        )
    if len(set(asked)) < len(asked):
        raise UsageError(f"Two {kind}s were given the same name.", f"Given were: {', '.join(asked)}.")
    return list(asked)

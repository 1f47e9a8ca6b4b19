"""What every framework's file offers: a model that can be asked for its answers, and written as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nbcloud.errors import UsageError
from nbcloud.models.signature import Feeds, Tensor


@dataclass(frozen=True)
class Options:
    """What whoever exports may say; all of it is found out where it isn't said.

    Parameters
    ----------
    opset : int, optional
        The ONNX operator set. The newest that the exporter and the target's onnxruntime both know.
    exporter : str, optional
        Where a framework has several (torch: ``dynamo``, ``legacy``).
    dynamic : mapping or bool, optional
        For each input the dimensions that vary, by their names: ``{"tokens": {0: "batch", 1: "length"}}``.
        False: none does. By default the first one, and those in which several samples differ.
    input_names, output_names : sequence of str, optional
    labels : sequence, optional
        The classes, where the model does not know them.

    Raises
    ------
    UsageError
        When ``dynamic`` is of another form.
    """

    opset: int | None = None
    exporter: str | None = None
    dynamic: Mapping[str, Mapping[int, str]] | bool | None = None
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    labels: Sequence[int | str] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:  # numpy's values are no JSON
            plain = tuple(each.item() if hasattr(each, "item") else each for each in self.labels)
            object.__setattr__(self, "labels", plain)
        if isinstance(self.dynamic, Mapping) and not all(map(_is_named, self.dynamic.values())):
            raise UsageError(
                f"dynamic={self.dynamic!r} does not name the dimensions that vary.",
                "Write for example: dynamic={'tokens': {0: 'batch', 1: 'length'}}",
            )


def _is_named(axes: object) -> bool:
    return isinstance(axes, Mapping) and all(
        isinstance(axis, int) and isinstance(name, str) and name for axis, name in axes.items()
    )


@dataclass(frozen=True)
class Conversion:
    """An ONNX file as an exporter wrote it, not verified yet.

    Parameters
    ----------
    inputs : tuple of Tensor
        Of the graph: what ``preprocessing`` makes is among them, not what that takes.
    outputs : tuple of Tensor
        In the order of the ONNX file.
    exporter : str
        ``"skl2onnx 1.20.0"``.
    steps : mapping
        For each value inside of the ONNX model that the framework can compute too, what it is there, in the
        order of computation: ``{"variable1": "the step 'scale' (StandardScaler)"}``.
    notes : list of str
        What the user should know.
    precision : str
        The type that the framework's model computes in, where the ONNX model's says too little.
    preprocessing : list of dict
        Steps before the graph, which the file then needs (see `nbcloud.models.steps`).
    opened : callable, optional
        Converts the model once more, to the path that it is given, now with ``steps``.
    doubt : str
        What a difference most likely comes from, where the exporter is known for one.
    scores : mapping
        For an output of classes that of the scores by which they are chosen.
    """

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    exporter: str
    opset: int
    steps: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    precision: str = ""
    preprocessing: list[dict[str, Any]] = field(default_factory=list)
    opened: Callable[[Path], Conversion] | None = None
    doubt: str = ""
    scores: Mapping[str, str] = field(default_factory=dict)


class Exportable(Protocol):
    """A framework's model, with a sample of what it takes."""

    framework: str
    """``scikit-learn``, ``torch``, ``keras``, ``onnx``."""
    versions: dict[str, str]
    inputs: tuple[Tensor, ...]
    feeds: Feeds
    """The sample, as the ONNX model takes it."""

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the model to ``path``, in one of the ways that the framework's ``attempts`` names.

        Raises
        ------
        ExportError
            Names the part that can't be expressed, with the user's line where that is known.
        """

    def predict(self, feeds: Feeds) -> Feeds:
        """The framework's own answers, by the names of the outputs. May raise what the framework raises."""

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """The framework's own values of `Conversion.steps`, in the order of computation."""


Adapt = Callable[[Any, Any, Options], Exportable]

"""What TensorFlow calls a model: a function with a signature, a module, a loaded SavedModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from nbcloud.errors import ExportError
from nbcloud.models import onnxfile
from nbcloud.models.export.keras import arguments, graph, shapes
from nbcloud.models.export.keras.graph import short
from nbcloud.models.exportable import Conversion, Options
from nbcloud.models.signature import TEXT, Feeds, Tensor


class FunctionModel:
    """A function of TensorFlow's.

    Parameters
    ----------
    model : tf.function, ConcreteFunction, tf.Module or what `tf.saved_model.load` gives
    sample : array, DataFrame, or a mapping or tuple of arrays
        By the names of the signature, where there is one.
    """

    framework = "tensorflow"

    def __init__(self, model: Any, sample: Any, options: Options) -> None:
        import tensorflow as tf

        self.versions = {"tensorflow": tf.__version__, "tf2onnx": metadata.version("tf2onnx")}
        # Its variables live as long as what they were loaded with.
        self._owner = model
        self._function = _function(model)
        concrete = _concrete(self._function)
        if concrete is not None:
            self._function = concrete
            self._arguments = _of_signature(concrete, sample)
        else:
            self._arguments = arguments.of_sample(_python(self._function), sample, "float32")
        self.feeds = self._arguments.feeds(sample)
        try:
            answer = self._call([tf.constant(value) for value in self.feeds.values()])
        except Exception as error:
            raise ExportError(
                f"The model itself refuses the sample: {short(error)}.",
                f"Give a sample as the model takes it: {', '.join(map(str, self._arguments.inputs))}.",
            ) from error
        inputs = arguments.with_dynamic(self._arguments.inputs, self.feeds, options, concrete is not None)
        names = arguments.renamed(inputs, options.input_names, "input")
        told = tuple(
            f"{name}_out" if name in names else name for name in arguments.output_names(None, answer)
        )
        self._outputs = arguments.renamed(
            tuple(Tensor(name, "float32", ()) for name in told), options.output_names, "output"
        )
        given = zip(self._outputs, arguments.leaves(answer), strict=True)
        self._answered = {name: arguments.plain(value).shape for name, (_, value) in given}
        self.feeds = {name: self.feeds[each.name] for name, each in zip(names, inputs, strict=True)}
        self.inputs = tuple(replace(each, name=name) for name, each in zip(names, inputs, strict=True))

    def _call(self, values: Sequence[Any]) -> Any:
        args, kwargs = self._arguments.native(values)
        return self._function(*args, **kwargs)

    def predict(self, feeds: Feeds) -> Feeds:
        """Its answers."""
        import tensorflow as tf

        answer = self._call([tf.constant(feeds[each.name]) for each in self.inputs])
        return {name: arguments.plain(value) for name, value in arguments.named(self._outputs, answer)}

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the function as ONNX."""
        if attempt != "tf2onnx":
            raise ExportError(
                "Keras' own export takes models of Keras only.", "Leave exporter out, or say 'tf2onnx'."
            )
        declared: list[tuple[int | None, ...]] = []

        def call(*values: Any) -> list[Any]:
            found = [value for _, value in arguments.leaves(self._call(values))]
            declared[:] = [tuple(value.shape) if value.shape.rank is not None else () for value in found]
            return found

        made = graph.convert(call, self.inputs, self._outputs, path, options.opset)
        found = shapes.of_outputs(
            self._answered,
            self.predict,
            self.inputs,
            self.feeds,
            dict(zip(self._outputs, declared, strict=True)),
        )
        outputs = [
            Tensor(name, dtype, found[name])
            for name, dtype in zip(self._outputs, graph.types(made), strict=True)
        ]
        graph.set_output_shapes(made, outputs)
        onnxfile.save(made, path)
        return Conversion(
            path,
            self.inputs,
            tuple(outputs),
            f"tf2onnx {self.versions['tf2onnx']}",
            options.opset or graph.OPSET,
        )

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:  # noqa: ARG002
        """None: a function has no parts that can be asked."""
        return iter(())


def _function(model: Any) -> Any:
    """What is to be called."""
    signatures = getattr(model, "signatures", None)
    if isinstance(signatures, Mapping) and signatures:
        for name in ("serving_default", "serve", *(signatures if len(signatures) == 1 else ())):
            if name in signatures:
                return signatures[name]
        raise ExportError(
            f"The SavedModel has the signatures {', '.join(sorted(signatures))}, and none is its default.",
            "Export one of them: tf.saved_model.load(path).signatures['NAME']",
        )
    if callable(model):
        own: Any = type(model).__call__
        return own.__get__(model, type(model)) if hasattr(own, "get_concrete_function") else model
    raise ExportError(
        f"The {type(model).__name__} has neither a signature nor a __call__.",
        "Save it with one: tf.saved_model.save(model, path, signatures=function)",
    )


def _concrete(function: Any) -> Any:
    """The one way in which a function can be called; None when it is found out by calling it."""
    if hasattr(function, "structured_input_signature"):
        return function
    if getattr(function, "input_signature", None) is not None:
        return function.get_concrete_function()
    return None


def _python(function: Any) -> Any:
    """What has the names of the parameters."""
    return getattr(function, "python_function", None) or function


def _of_signature(concrete: Any, sample: Any) -> arguments.Arguments:
    import tensorflow as tf

    args, kwargs = concrete.structured_input_signature
    found = arguments.leaves((list(args), kwargs) if args else kwargs)
    inputs = []
    for number, (path, spec) in enumerate(found):
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
            raise ExportError(
                f"The input {path!r} of the signature is not a tensor of a known rank ({spec}).",
                "Give the function an input_signature with the rank of each tensor.",
            )
        name = spec.name or path
        if not name or name.isdigit() or arguments.MADE_UP.fullmatch(name):
            name = "input" if len(found) == 1 else f"input_{number}"
        shape = tuple(arguments.UNKNOWN if size is None else size for size in spec.shape)
        inputs.append(Tensor(name, TEXT if spec.dtype == tf.string else spec.dtype.name, shape))
    structure = (tuple(arguments.placeholders(each) for each in args), arguments.placeholders(kwargs))
    made = arguments.Arguments(structure, tuple(inputs))
    return replace(made, inputs=arguments.with_sizes(made.inputs, made.feeds(sample)))

"""Keras models: Sequential, Functional, subclassed, of any of Keras' backends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud import extras
from nbcloud.errors import ExportError, NbcloudError
from nbcloud.models import onnxfile, steps
from nbcloud.models.export.keras import arguments, graph, layers, refusals, shapes, text
from nbcloud.models.exportable import Conversion, Options
from nbcloud.models.signature import Feeds, Tensor


class KerasModel:
    """A model or layer of Keras.

    Parameters
    ----------
    sample : array, DataFrame, or a mapping, tuple or list of arrays
        As the model is called; by the names of its inputs where it has several.
    """

    framework = "keras"

    def __init__(self, model: Any, sample: Any, options: Options) -> None:
        import keras

        self._backend = keras.backend.backend()
        if self._backend == "tensorflow":
            extras.check("tensorflow", "to export Keras models")
        packages = (
            "keras",
            "tf2onnx",
            {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}[self._backend],
        )
        self.versions = {name: _version(name) for name in packages}
        self._model = model
        self._graph = _graph(model)
        if self._graph is None and isinstance(model, keras.Sequential):
            _build(model, sample)
            self._graph = _graph(model)
        if self._graph is not None:
            self._arguments = _of_tokens(model, arguments.of_graph(self._graph, sample), sample)
        else:
            text.refuse(model)
            self._arguments = arguments.of_sample(model.call, sample, keras.backend.floatx())
        refusals.refuse_state(model)
        refusals.refuse_bfloat16(model)
        self.feeds = self._arguments.feeds(sample)
        answer = self._first_answer()
        self.inputs = self._dynamic(options)
        names = arguments.renamed(self.inputs, options.input_names, "input")
        told = arguments.output_names(self._graph, answer)
        told = tuple(f"{name}_out" if name in names else name for name in told)
        outputs = tuple(Tensor(name, "float32", ()) for name in told)
        self._outputs = arguments.renamed(outputs, options.output_names, "output")
        self._answered = {name: value.shape for name, value in self._numpy(answer).items()}
        self.feeds = {name: self.feeds[each.name] for name, each in zip(names, self.inputs, strict=True)}
        self.inputs = tuple(replace(each, name=name) for name, each in zip(names, self.inputs, strict=True))
        self._layers = [layer.name for layer in model._flatten_layers(include_self=False)]

    def _first_answer(self) -> Any:
        """What the model answers to the sample; builds it when it was never called."""
        values = [self._tensor(value) for value in self.feeds.values()]
        try:
            first, second = self._call(values), self._call(values)
            refusals.refuse_placeholders(first)
        except NbcloudError:
            raise
        except Exception as error:
            raise self._refused(error) from error
        pairs = zip(arguments.leaves(first), arguments.leaves(second), strict=True)
        for (_, one), (_, other) in pairs:
            if not np.array_equal(_array(one), _array(other), equal_nan=_array(one).dtype.kind == "f"):
                raise ExportError(
                    "The model gives two different answers to the same input.",
                    "Find the layer that draws random numbers, or changes itself, with training=False.",
                )
        return first

    def _dynamic(self, options: Options) -> tuple[Tensor, ...]:
        """The inputs; a batch that only the way in which Keras built the model has fixed varies, too."""
        inputs, built = self._arguments.inputs, self._arguments.built
        given = self.feeds.values()
        if built is not None and all(len(value) == built for value in given if value.ndim):
            more = [np.concatenate([value, value[:1]]) if value.ndim else value for value in given]
            try:
                self._call([self._tensor(value) for value in more])
            except Exception:  # noqa: BLE001 - whatever it says: this size is the model's own
                inputs = arguments.with_batch(inputs, built)
        return arguments.with_dynamic(inputs, self.feeds, options, self._graph is not None)

    def _tensor(self, value: Any) -> Any:
        import keras

        if self._backend == "tensorflow":
            import tensorflow as tf

            return tf.convert_to_tensor(value, tf.string if value.dtype == object else None)
        return value if value.dtype == object else keras.ops.convert_to_tensor(value)

    def _call(self, values: Sequence[Any]) -> Any:
        args, kwargs = self._arguments.native(values)
        with warnings.catch_warnings(), graph.without_log():
            warnings.simplefilter("ignore")
            return self._model(*args, training=False, **kwargs)

    @cached_property
    def _compiled(self) -> Any:
        """The call as TensorFlow's graph, which is quicker once it was traced: again for each shape."""
        import tensorflow as tf

        return tf.function(lambda values: self._call(values), autograph=False)

    def _refused(self, error: Exception) -> ExportError:
        inputs, built = self._arguments.inputs, self._arguments.built
        takes = inputs if built is None else arguments.with_batch(inputs, built)
        return ExportError(
            f"The model itself refuses the sample: {graph.short(error)}.",
            f"Give a sample as the model takes it: {', '.join(map(str, takes))}.",
        )

    def _numpy(self, answer: Any) -> Feeds:
        return {name: _array(value) for name, value in arguments.named(self._outputs, answer)}

    def predict(self, feeds: Feeds) -> Feeds:
        """Its answers, as it gives them outside of training."""
        alike = (np.shape(feeds[each.name]) == np.shape(self.feeds[each.name]) for each in self.inputs)
        # Most comparisons have the sample's shape; a trace for another one would take longer than the call.
        traced = all(alike) and self._backend == "tensorflow" and self._graph is not None
        with graph.without_log():
            call = self._compiled if traced else self._call
            return self._numpy(call([self._tensor(feeds[each.name]) for each in self.inputs]))

    def convert(self, path: Path, options: Options, attempt: str) -> Conversion:
        """Write the model as ONNX; layers with a vocabulary become steps before it."""
        cut = text.Cut(self._model, self.inputs)
        if self._graph is not None:
            cut = text.cut(self._graph, self.inputs)
        if not cut.steps:
            cut = replace(cut, model=self._model)
        if attempt == "keras":
            made = self._by_keras(cut, path, options)
            exporter = f"keras {self.versions['keras']}"
        elif self._backend != "tensorflow":
            from nbcloud.models.export.keras import other

            made = other.convert(cut.model, cut.inputs, self._outputs, path, options.opset, self._backend)
            exporter = f"tf2onnx {self.versions['tf2onnx']}, from Keras on {self._backend}"
        else:
            made = graph.convert(
                self._traced(cut), cut.inputs, self._outputs, path, options.opset, self._layers
            )
            exporter = f"tf2onnx {self.versions['tf2onnx']}"
        outputs = self._told(made)
        graph.set_output_shapes(made, outputs)
        onnxfile.save(made, path)
        opset = next(each.version for each in made.opset_import if each.domain in ("", "ai.onnx"))
        opened = None
        if self._graph is not None and self._backend == "tensorflow":
            opened = partial(self._open, replace(cut, model=cut.model if cut.steps else self._graph), opset)
        return Conversion(path, cut.inputs, outputs, exporter, opset, preprocessing=cut.steps, opened=opened)

    def _open(self, cut: text.Cut, opset: int, path: Path) -> Conversion:
        """Write the model with what each layer gives."""
        self._opened = layers.Opened(cut.model), cut
        self._opened[0].convert(cut.inputs, path, opset)
        told = self._opened[0].steps
        return Conversion(path, cut.inputs, (), "", opset, steps=told, preprocessing=cut.steps)

    def _traced(self, cut: text.Cut) -> Any:
        def call(*values: Any) -> list[Any]:
            if cut.steps:
                answer = cut.model.call(list(values), training=False)
            else:
                args, kwargs = self._arguments.native(values)
                answer = self._model(*args, training=False, **kwargs)
            return [value for _, value in arguments.leaves(answer)]

        return call

    def _by_keras(self, cut: text.Cut, path: Path, options: Options) -> Any:
        """Keras' own export; its names are the framework's, so they go by their order."""
        with graph.quiet() as told:
            try:
                cut.model.export(str(path), format="onnx", verbose=False, opset_version=options.opset)
            except Exception as error:
                raise graph.refused(error, told, self._layers) from error
        made = onnxfile.load(path)
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        graph.check_operators(made, self._layers)
        given = [each.name for each in made.graph.input]
        answers = [each.name for each in made.graph.output]
        if len(given) != len(cut.inputs) or len(answers) != len(self._outputs):
            raise ExportError(
                f"Keras' export has {len(given)} inputs and {len(answers)} outputs, the model "
                f"{len(cut.inputs)} and {len(self._outputs)}.",
                "Leave out the inputs and outputs that the model does not use.",
            )
        names = dict(zip(given, (each.name for each in cut.inputs), strict=True))
        graph.name_all(made, names, dict(zip(answers, self._outputs, strict=True)), cut.inputs)
        return made

    def _told(self, made: Any) -> tuple[Tensor, ...]:
        """What the outputs are: types as in ONNX, sizes as in the model's answers."""
        declared = dict(zip(self._outputs, _declared(self._graph, len(self._outputs)), strict=False))
        found = shapes.of_outputs(self._answered, self.predict, self.inputs, self.feeds, declared)
        types = zip(self._outputs, graph.types(made), strict=True)
        return tuple(Tensor(name, dtype, found[name]) for name, dtype in types)

    def intermediates(self, feeds: Feeds, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """What each layer gives, in the order of computation."""
        opened, cut = self._opened
        fed = steps.apply(cut.steps, feeds)
        with graph.without_log():
            yield from zip(
                names,
                map(_array, opened(*(self._tensor(fed[each.name]) for each in cut.inputs))),
                strict=True,
            )


def _graph(model: Any) -> Any:
    """The Functional model that a model is or has."""
    found = getattr(model, "_functional", None) or model
    return found if hasattr(found, "_inputs_struct") else None


def _build(model: Any, sample: Any) -> None:
    """A Sequential model is built by its first call."""
    value = arguments.plain(
        next(iter(sample.values())) if isinstance(sample, dict) and len(sample) == 1 else sample
    )
    try:
        import keras

        if value.dtype == object:
            import tensorflow as tf

            value = tf.convert_to_tensor(value, tf.string)
        elif value.dtype == np.float64:
            value = value.astype(keras.backend.floatx())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(value, training=False)
    except Exception as error:
        raise ExportError(
            f"The model is not built, and refuses the sample: {graph.short(error)}.",
            "Give a sample as the model takes it, or call the model once.",
        ) from error


def _of_tokens(model: Any, found: arguments.Arguments, sample: Any) -> arguments.Arguments:
    """A Sequential model that begins with an Embedding and declares no input calls its tokens float32."""
    layers = getattr(model, "layers", [])
    tokens = layers and type(layers[0]).__name__ == "Embedding" and len(found.inputs) == 1
    if tokens and found.inputs[0].dtype == "float32" and not isinstance(sample, dict):
        dtype = arguments.plain(sample).dtype
        if dtype.kind in "iu":
            return replace(found, inputs=(replace(found.inputs[0], dtype=str(dtype)),))
    return found


def _declared(functional: Any, count: int) -> list[tuple[int | None, ...]]:
    """The sizes of the outputs, as far as the model declares them."""
    if functional is None:
        return []
    shapes = [tuple(tensor.shape) for _, tensor in arguments.leaves(functional._outputs_struct)]
    return shapes if len(shapes) == count else []


def _array(value: Any) -> Any:
    import keras

    if isinstance(value, np.ndarray):
        return value
    return arguments.plain(keras.ops.convert_to_numpy(value))


def _version(name: str) -> str:
    for package in (name, f"{name}-cpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""

"""Where Keras and tf2onnx don't understand each other, and what is said instead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Have Keras trace what tf2onnx can read.

    Keras compiles grouped convolutions by XLA, which tf2onnx sees as a call of something unknown; maps
    functions by rewriting them, of which tf2onnx makes wrong shapes; looks for the sign of zeros, for its
    argmax, in their bits; and asks whether sizes are positive that are known only when the model runs. Its
    TimeDistributed, when the number of steps is not known, counts the batch in its place.
    """
    import keras
    import tensorflow as tf
    from keras.src.backend.tensorflow import numpy as backend
    from keras.src.ops import image

    distributed = keras.layers.TimeDistributed
    function, mapped, call = tf.function, tf.vectorized_map, distributed.call
    resize, signbit = image.resize, backend.signbit

    def uncompiled(*args: Any, **options: Any) -> Any:
        options.pop("jit_compile", None)
        return function(*args, **options)

    def loop(each: Callable[[Any], Any], elements: Any, *_: Any, **__: Any) -> Any:
        first = each(tf.nest.map_structure(lambda value: value[0], elements))
        kinds = tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), first)
        return tf.map_fn(each, elements, fn_output_signature=kinds)

    def resized(images: Any, size: Any, **options: Any) -> Any:
        known = all(isinstance(each, int) for each in size)
        return (resize if known else image._resize)(images, size, **options)

    tf.function, tf.vectorized_map, distributed.call = uncompiled, loop, _distributed
    image.resize, backend.signbit = resized, _signbit
    try:
        yield
    finally:
        tf.function, tf.vectorized_map, distributed.call = function, mapped, call
        image.resize, backend.signbit = resize, signbit


def _signbit(values: Any) -> Any:
    """Whether numbers are negative, as is the zero whose inverse is."""
    import tensorflow as tf

    values = tf.convert_to_tensor(values)
    if not values.dtype.is_floating:
        return values < 0 if values.dtype != tf.bool else tf.zeros_like(values)
    return (values < 0) | (tf.equal(values, 0) & (tf.math.reciprocal(values) < 0))


def _distributed(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """Every step of every row as a row of its own."""
    import tensorflow as tf

    outer = tf.shape(inputs)[:2]

    def rows(value: Any) -> Any:
        return tf.reshape(value, tf.concat([[outer[0] * outer[1]], tf.shape(value)[2:]], 0))

    def told(value: Any, shape: Any) -> Any:
        value.set_shape(shape)
        return value

    options = {}
    if self.layer._call_has_mask_arg and mask is not None:
        options["mask"] = rows(mask)
    if self.layer._call_has_training_arg:
        options["training"] = training
    given = self.layer.call(told(rows(inputs), [None, *inputs.shape[2:]]), **options)
    back = tf.reshape(given, tf.concat([outer, tf.shape(given)[1:]], 0))
    return told(back, [*inputs.shape[:2], *given.shape[1:]])


def operators() -> dict[str, tuple[Any, list[Any]]]:
    """Operations that tf2onnx has not, or has wrongly for whole numbers, made of those that ONNX has."""
    return {
        "Erfc": (_one_minus_erf, []),
        "Expm1": (_exp_minus_one, []),
        "Log1p": (_log_of_more, []),
        "FloorDiv": (_floor_div, []),
        "FloorMod": (_floor_mod, []),
    }


def _one_minus_erf(ctx: Any, node: Any, name: str, _: Any) -> None:
    one = _one(ctx, node, name)
    erf = ctx.make_node("Erf", [node.input[0]])
    _replace(ctx, node, "Sub", [one, erf.output[0]])


def _exp_minus_one(ctx: Any, node: Any, name: str, _: Any) -> None:
    one = _one(ctx, node, name)
    exp = ctx.make_node("Exp", [node.input[0]])
    _replace(ctx, node, "Sub", [exp.output[0], one])


def _log_of_more(ctx: Any, node: Any, name: str, _: Any) -> None:
    more = ctx.make_node("Add", [node.input[0], _one(ctx, node, name)])
    _replace(ctx, node, "Log", [more.output[0]])


def _floor_div(ctx: Any, node: Any, name: str, _: Any) -> None:  # noqa: ARG001
    values, by = node.input
    if _is_whole(ctx, node):
        rest = ctx.make_node("Mod", [values, by])
        _replace(ctx, node, "Div", [ctx.make_node("Sub", [values, rest.output[0]]).output[0], by])
    else:
        _replace(ctx, node, "Floor", [ctx.make_node("Div", [values, by]).output[0]])


def _floor_mod(ctx: Any, node: Any, name: str, _: Any) -> None:  # noqa: ARG001
    values, by = node.input
    if _is_whole(ctx, node):
        _replace(ctx, node, "Mod", [values, by])
        return
    times = ctx.make_node("Floor", [ctx.make_node("Div", [values, by]).output[0]])
    product = ctx.make_node("Mul", [times.output[0], by])
    _replace(ctx, node, "Sub", [values, product.output[0]])


def _is_whole(ctx: Any, node: Any) -> bool:
    import numpy as np
    from tf2onnx import utils

    return bool(np.issubdtype(utils.map_onnx_to_numpy_type(ctx.get_dtype(node.input[0])), np.integer))


def _one(ctx: Any, node: Any, name: str) -> str:
    import numpy as np
    from tf2onnx import utils

    kind = utils.map_onnx_to_numpy_type(ctx.get_dtype(node.input[0]))
    return str(ctx.make_const(utils.make_name(name), np.array(1, kind)).output[0])


def _replace(ctx: Any, node: Any, kind: str, inputs: list[str]) -> None:
    shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    ctx.remove_node(node.name)
    ctx.make_node(kind, inputs, name=node.name, outputs=node.output, shapes=[shape], dtypes=[dtype])

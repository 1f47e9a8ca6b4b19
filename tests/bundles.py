"""Small bundles for tests: a classifier of four numbers, made without any framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.models import onnxfile
from nbcloud.models.bundle.build import bundle
from nbcloud.models.bundle.manifest import Manifest
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.signature import Signature, Tensor

CLASSES = ("rose", "tulip", "lily")
SAMPLE = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 4)),),
    (Tensor("probabilities", "float32", ("batch", 3), labels=CLASSES),),
)


def onnx_file(path: Path, *, seed: int = 0, width: int = 8, external: bool = False, opset: int = 17) -> Path:
    """A network with one hidden layer, with the metadata that an export writes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "first": random.normal(size=(4, width)).astype(np.float32),
        "second": random.normal(size=(width, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if external:
        onnx.save_model(
            model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0
        )
    else:
        onnxfile.save(model, path)
    metadata = Metadata(
        SIGNATURE, name="flowers", framework="onnx", opset=opset, versions={"numpy": np.__version__}
    )
    onnxfile.set_properties(path, {KEY: metadata.to_text()})
    return path


def make(
    folder: Path, name: str = "flowers.nbundle", *, seed: int = 0, width: int = 8, **options: Any
) -> Path:
    """A bundle of such a network."""
    made(folder, name, seed=seed, width=width, **options)
    return folder / name


def made(folder: Path, name: str, *, seed: int = 0, width: int = 8, **options: Any) -> Manifest:
    """The manifest of such a bundle."""
    model = onnx_file(folder / "flowers.onnx", seed=seed, width=width)
    return bundle(model, folder / name, golden=options.pop("golden", SAMPLE), **options)


def same(folder: Path, tensor: Tensor, golden: np.ndarray, **options: Any) -> Path:
    """A bundle whose model gives back what it takes."""
    from onnx import TensorProto, helper

    kinds = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "str": TensorProto.STRING}
    kind = kinds[tensor.dtype]
    graph = helper.make_graph(
        [helper.make_node("Identity", [tensor.name], ["y"])],
        "same",
        [helper.make_tensor_value_info(tensor.name, kind, tensor.shape)],
        [helper.make_tensor_value_info("y", kind, tensor.shape)],
    )
    path = folder / "same.onnx"
    onnxfile.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    metadata = Metadata(Signature((tensor,), (Tensor("y", tensor.dtype, tensor.shape),)), name="same")
    onnxfile.set_properties(path, {KEY: metadata.to_text()})
    bundle(path, folder / "same.nbundle", golden=golden, **options)
    return folder / "same.nbundle"

"""What runs on a device needs only Python 3.9, numpy and onnxruntime."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from nbcloud.models.bundle.runtime import modules, runtime

NEEDED = {"numpy", "onnxruntime"}
OPTIONAL = {"cryptography", "ml_dtypes", "cv2", "PIL"}
"""Imported in a function, where they are there or what needs them was asked for."""
SOURCES = {name: content.decode() for name, content in runtime().items()}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield str(node.module)


def test_it_is_what_the_device_needs() -> None:
    assert {"nbcloud.errors", "nbcloud.models.signature", "nbcloud.models.metadata"} < modules()
    assert {"nbcloud.inference.edge.store", "nbcloud.models.bundle.ed25519"} < modules()
    building = {"build", "keys", "runtime", "sbom"}
    assert not {f"nbcloud.models.bundle.{name}" for name in building} & modules()


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_python_3_9(name: str) -> None:
    tree = ast.parse(SOURCES[name], feature_version=(3, 9))
    annotations = list(annotations_of(tree))
    assert not annotations or "from __future__ import annotations" in SOURCES[name]
    inside = {id(each) for annotation in annotations for each in ast.walk(annotation)}
    for node in ast.walk(tree):
        assert not isinstance(node, getattr(ast, "TryStar", ())), name
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in inside:
            assert not types_in(node), f"{name}:{node.lineno} makes a union at run time"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"zip", "isinstance"}
        ):
            assert "strict" not in {keyword.arg for keyword in node.keywords}, f"{name}:{node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"dataclass", "dataclasses.dataclass"}:
            assert not {keyword.arg for keyword in node.keywords} & {"slots", "kw_only"}, (
                f"{name}:{node.lineno}"
            )
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"file_digest", "UTC", "bit_count"}, f"{name}:{node.lineno}"


def annotations_of(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                yield getattr(node, field)


def types_in(node: ast.AST) -> set[str]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names & {"str", "int", "float", "bytes", "bool", "Path", "None"}


@pytest.mark.parametrize("name", SOURCES)
def test_it_imports_nothing_else(name: str) -> None:
    tree = ast.parse(SOURCES[name])
    for module in imported(tree):
        top = module.partition(".")[0]
        if top == "nbcloud":
            path = module.replace(".", "/")
            assert f"{path}.py" in SOURCES or f"{path}/__init__.py" in SOURCES, f"{name}: {module}"
        else:
            assert top in sys.stdlib_module_names | NEEDED | OPTIONAL, f"{name}: {module}"
    for node in tree.body:
        first = {module.partition(".")[0] for module in imported(node)}
        function = isinstance(node, ast.FunctionDef | ast.ClassDef)
        assert function or not first & (OPTIONAL | {"onnxruntime"}), f"{name}: at the top"

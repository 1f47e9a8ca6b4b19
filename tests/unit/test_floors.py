"""The house stands on its floors: no file imports a higher one, no room imports its neighbour."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = (
    ("errors",),
    ("config", "extras", "imported", "redact", "secret_values", "wording", "cells", "runs.record"),
    ("clusters", "models"),
    ("sessions", "runs", "inference"),
    ("sessions.kernel",),
    ("sessions.host",),
    ("sessions.journal",),
    ("sessions.client",),
    ("dispatch",),
    ("workflows",),
    ("commands",),
    ("jupyter",),
    ("cli",),
    ("__main__",),
)
"""From the ground up. A room is a file or a folder of nbcloud/; a file may stand apart from its folder."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


@dataclass(frozen=True)
class Import:
    """One import, wherever it stands: in a function or under TYPE_CHECKING it counts as at the top."""

    file: str
    line: int
    importer: str
    imported: str
    deferred: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports nbcloud.{self.imported}"


def room(module: str) -> str:
    """The room of a module, named without ``nbcloud.``."""
    parts = module.split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in candidates if name in FLOOR), "")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "nbcloud").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "nbcloud").rglob("*.py"))}


def _named(node: ast.AST) -> list[str]:
    """Modules of nbcloud that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    inside = [name.removeprefix("nbcloud.") for name in names if name.startswith("nbcloud.")]
    # `from nbcloud.runs.store import Store` is an import of nbcloud.runs.store; Store is no module.
    return [name if name in MODULES else name.rpartition(".")[0] for name in inside]


def _imports(module: str) -> Iterator[Import]:
    path = MODULES[module]
    tree = ast.parse(path.read_text())
    at_import = set(_run_at_import(tree))
    for node in ast.walk(tree):
        for imported in _named(node):
            yield Import(str(path.relative_to(ROOT)), node.lineno, module, imported, node not in at_import)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _run_at_import(child)


# nbcloud/__init__.py is the door to all floors; nothing in it is imported before it is asked for.
IMPORTS = [found for module in MODULES if module for found in _imports(module) if found.imported]


def test_every_file_has_a_floor() -> None:
    homeless = [name for name in MODULES if name and not room(name)]
    assert not homeless, f"say in FLOORS where they belong: {homeless}"


def test_the_door_imports_nothing_at_once() -> None:
    assert [str(found) for found in _imports("") if not found.deferred] == []


def test_no_file_imports_a_higher_floor() -> None:
    up = [str(i) for i in IMPORTS if FLOOR[room(i.imported)] > FLOOR[room(i.importer)]]
    assert not up, "\n".join(up)


def test_no_room_imports_its_neighbour() -> None:
    aside = [
        str(i)
        for i in IMPORTS
        if room(i.imported) != room(i.importer) and FLOOR[room(i.imported)] == FLOOR[room(i.importer)]
    ]
    assert not aside, "\n".join(aside)


def test_no_files_import_each_other_in_a_circle() -> None:
    edges = {(found.importer, found.imported) for found in IMPORTS}
    edges -= {(name, name) for name in MODULES}  # a module run by -m takes itself under its own name
    while True:
        # What imports nothing that is left, or is imported by nothing that is left, is in no circle.
        importers, imported = {edge[0] for edge in edges}, {edge[1] for edge in edges}
        inner = {edge for edge in edges if edge[1] in importers and edge[0] in imported}
        if inner == edges:
            break
        edges = inner
    assert not edges, "\n".join(f"{importer} imports {imported}" for importer, imported in sorted(edges))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nbcloud.runs.store", ["runs.store"]),
        ("from nbcloud.runs.store import Store", ["runs.store"]),
        ("from nbcloud.runs import store", ["runs.store"]),
        ("from nbcloud import secret_values", ["secret_values"]),
        ("from nbcloud import __version__", [""]),
        ("import json", []),
    ],
)
def test_an_import_is_read_as_python_reads_it(source: str, expected: list[str]) -> None:
    assert _named(ast.parse(source).body[0]) == expected

"""The files of nbcloud that run on a device: what `nbcloud.inference.edge` imports, found by reading it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources

from nbcloud import __version__

ROOT = "nbcloud.inference.edge"
_MAIN = """\
import sys

from nbcloud.inference.edge.__main__ import main

if __name__ == "__main__":
    sys.exit(main(bundle=sys.path[0]))
"""
_DOOR = f'"""The part of nbcloud that runs on devices."""\n\n__version__ = "{__version__}"\n'


def runtime() -> dict[str, bytes]:
    """The members of a bundle that make it a program; packages above the runtime's are nearly empty."""
    files = {"__main__.py": _MAIN.encode()}
    for module in sorted(modules()):
        path = _path(module)
        files["/".join(path)] = _source(path).encode()
        for depth in range(1, len(path) - 1):
            files.setdefault("/".join((*path[:depth], "__init__.py")), b"")
        files.setdefault("/".join((*path[:-1], "__init__.py")), b"")
    files["nbcloud/__init__.py"] = _DOOR.encode()
    return files


def modules() -> set[str]:
    """Names of the modules, wherever in them they import each other."""
    found: set[str] = set()
    waiting = [ROOT, f"{ROOT}.__main__"]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imported(ast.parse(_source(_path(module))))
    return found


def _imported(tree: ast.AST) -> Iterator[str]:
    """Modules of nbcloud that are imported; packages are left out, as their own files are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith("nbcloud.") and _is_file(name))


def _is_file(module: str) -> bool:
    return resources.files("nbcloud").joinpath(*_path(module)[1:]).is_file()


def _path(module: str) -> tuple[str, ...]:
    parts = tuple(module.split("."))
    return (*parts, "__init__.py") if module == ROOT else (*parts[:-1], f"{parts[-1]}.py")


def _source(path: tuple[str, ...]) -> str:
    return resources.files("nbcloud").joinpath(*path[1:]).read_text(encoding="utf-8")

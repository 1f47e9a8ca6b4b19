"""The user's own modules that a cell imports, and all of the user's modules that those import in turn.

Nothing is imported to find them. A module is the user's own if its source is a file outside of the places
where installers and Python itself put theirs; so an editable install is the user's own.
"""

from __future__ import annotations

import ast
import importlib.machinery
import os
import pkgutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

import xxhash

_INSTALLED_IN = frozenset({"site-packages", "dist-packages"})
_NEVER_SENT = frozenset({"nbcloud", "__main__", "__mp_main__"})
_PYTHONS_OWN = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter)
_IMPORTING = frozenset({"import_module", "__import__"})


@dataclass(frozen=True)
class ModuleFile:
    """One source file that travels.

    Attributes
    ----------
    name : str
        Dotted name of the module.
    path : Path
        Its file on this machine, absolute.
    relative : str
        Its path under an import root: ``pkg/sub.py``, ``pkg/__init__.py``.
    hash : str
        xxh3_128 of its content, in hex.
    """

    name: str
    path: Path
    relative: str
    hash: str


@dataclass(frozen=True)
class _Place:
    """Where a module is: its source file (none for a namespace package), and where its submodules are."""

    file: str | None
    folders: tuple[str, ...] | None


@dataclass(frozen=True)
class _Source:
    """What was found in a source file when it had this time of change and this size."""

    stamp: tuple[int, int]
    hash: str
    imports: tuple[tuple[int, str], ...]
    """Level (the number of leading dots) and dotted name of each import."""


# What was read, by file; and the places of top-level modules that are not loaded, by what they depend on.
_sources: dict[str, _Source] = {}
_top_level: tuple[object, dict[str, _Place | None]] = (None, {})


def local_modules(names: Iterable[str], *, path: Sequence[str] | None = None) -> dict[str, ModuleFile]:
    """Find the user's own modules among imported names, with all that they import in turn.

    Parameters
    ----------
    names : iterable of str
        Absolute dotted names. One that names something in a module (``pkg.module.function``) stands for the
        module.
    path : sequence of str, optional
        Where to look, instead of in ``sys.modules``, in ``sys.path`` and in the finders of ``sys.meta_path``.

    Returns
    -------
    dict of str to ModuleFile
        By module name. What a module imports comes before it, except in an import cycle.
    """
    search = _Search(path)
    search.run(names)
    return search.found


class _Search:
    def __init__(self, path: Sequence[str] | None) -> None:
        self.found: dict[str, ModuleFile] = {}
        self._path = path
        self._known = _known_places() if path is None else {}
        self._places: dict[str, _Place | None] = {}

    def run(self, names: Iterable[str]) -> None:
        """Find modules depth first. A project's chain of imports may be longer than Python's stack."""
        stack: list[tuple[Iterator[str], ModuleFile | None]] = [(_with_packages(names), None)]
        while stack:
            pending, module = stack[-1]
            for name in pending:
                if name not in self._places and (entered := self._enter(name)):
                    stack.append(entered)
                    break
            else:
                stack.pop()
                if module is not None:
                    self.found[module.name] = module

    def _enter(self, name: str) -> tuple[Iterator[str], ModuleFile] | None:
        """Locate a module, whose package has been located; return all that it imports if it travels."""
        self._places[name] = place = self._locate(name)
        if place is None or place.file is None or (source := _read(place.file)) is None:
            return None
        is_package = place.folders is not None
        package = name if is_package else name.rpartition(".")[0]
        imports = (_absolute(imported, level, package) for level, imported in source.imports)
        relative = name.replace(".", "/") + ("/__init__.py" if is_package else ".py")
        return _with_packages(imports), ModuleFile(name, Path(place.file), relative, source.hash)

    def _locate(self, name: str) -> _Place | None:
        package = name.rpartition(".")[0]
        if package:
            outer = self._places[package]
            return _place(_find_in(name, outer.folders)) if outer is not None and outer.folders else None
        if name in _NEVER_SENT:
            return None
        if self._path is not None:
            return _place(_find_in(name, self._path))
        loaded = _loaded_spec(name)
        return _place(loaded) if loaded is not None else self._locate_on_path(name)

    def _locate_on_path(self, name: str) -> _Place | None:
        if name in self._known:
            return self._known[name]
        place = _place(_find_top_level(name))
        if place is None or place.file is not None:  # a namespace package may get an __init__.py
            self._known[name] = place
        return place


def _with_packages(names: Iterable[str]) -> Iterator[str]:
    """``a``, ``a.b``, ``a.b.c`` for ``a.b.c``."""
    for name in names:
        end = name.find(".")
        while end > 0:
            yield name[:end]
            end = name.find(".", end + 1)
        if name:
            yield name


def _absolute(name: str, level: int, package: str) -> str:
    """Resolve a relative import as Python does; to nothing if it leads out of the top-level package."""
    if not level:
        return name
    parts = package.split(".") if package else []
    if level > len(parts):
        return ""
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name])])


# ── where a module is ────────────────────────────────────────────────────────────────────────────


def _known_places() -> dict[str, _Place | None]:
    """Places of top-level modules, remembered for as long as no folder of ``sys.path`` changes.

    Most imports are of installed packages: this saves looking for each of them at each cell.
    """
    global _top_level
    state = (_search_path(), [_stamp(folder) for folder in _search_path()], list(sys.meta_path))
    if _top_level[0] != state:
        _top_level = (state, {})
    return _top_level[1]


def _search_path() -> list[str]:
    try:
        current = str(Path.cwd())
    except OSError:  # the folder is gone
        current = ""
    return [entry or current for entry in sys.path if isinstance(entry, str) and (entry or current)]


def _loaded_spec(name: str) -> ModuleSpec | None:
    """Spec of a module that the notebook has imported: a further import would take that one."""
    spec = getattr(sys.modules.get(name), "__dict__", {}).get("__spec__")
    if not isinstance(spec, ModuleSpec) or not spec.origin:
        return None
    return spec if _is_others(spec.origin) or Path(spec.origin).is_file() else None


def _find_top_level(name: str) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is importlib.machinery.PathFinder:
            spec = _find_in(name, _search_path())
        elif finder in _PYTHONS_OWN:
            if name in sys.builtin_module_names:
                return None
            continue
        else:
            spec = _ask(finder, name)
        if spec is not None:
            return spec
    return None


def _ask(finder: object, name: str) -> ModuleSpec | None:
    """Ask a finder that somebody has installed, such as that of an editable install."""
    find = getattr(finder, "find_spec", None)
    if find is None or name in sys.stdlib_module_names:
        return None
    try:
        spec = find(name, None)
    except ImportError:
        return None
    return spec if isinstance(spec, ModuleSpec) else None


def _find_in(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    # PathFinder would do, but it looks into sys.modules for the parent of a nested namespace package.
    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is None:
            continue
        if spec.loader is not None:
            return spec
        portions.extend(spec.submodule_search_locations or ())
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _place(spec: ModuleSpec | None) -> _Place | None:
    """Place of a module if it is the user's own Python source, or a namespace that may hold such."""
    if spec is None:
        return None
    locations = spec.submodule_search_locations
    folders = None if locations is None else tuple(locations)
    if spec.origin is None or (folders and spec.loader is None):
        return _Place(None, folders) if folders else None
    if _is_others(spec.origin) or not Path(spec.origin).is_file():
        return None
    return _Place(os.path.normpath(Path(spec.origin).absolute()), folders)


@lru_cache(maxsize=8192)
def _is_others(file: str) -> bool:
    """Tell whether a file is installed or Python's own, or no Python source."""
    path = Path(file)
    if path.suffix != ".py" or not _INSTALLED_IN.isdisjoint(path.parts):
        return True
    return any(place.is_relative_to(root) for place in (path, path.resolve()) for root in _standard_library())


@lru_cache(maxsize=1)
def _standard_library() -> frozenset[Path]:
    paths = {Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib")} | {Path(os.__file__).parent}
    return frozenset(paths | {path.resolve() for path in paths})


# ── what a module imports ────────────────────────────────────────────────────────────────────────


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(file: str) -> _Source | None:
    """Content hash and imports of a source file; None if it can't be read."""
    stamp = _stamp(file)
    known = _sources.get(file)
    if stamp is None or (known is not None and known.stamp == stamp):
        return known if stamp else None
    try:
        content = Path(file).read_bytes()
    except OSError:
        return None
    imports = dict.fromkeys(_imports(content, is_package=Path(file).name == "__init__.py"))
    source = _Source(stamp, xxhash.xxh3_128_hexdigest(content), tuple(imports))
    _sources[file] = source
    return source


def _imports(content: bytes, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Imports anywhere in a source, also those in functions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # it travels, and fails there as it would here
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield node.level, module
            names = (alias.name for alias in node.names if alias.name != "*")
            yield from ((node.level, f"{module}.{name}" if module else name) for name in names)
        elif isinstance(node, ast.Call):
            yield from _imported_by_call(node)
        elif isinstance(node, ast.Assign) and is_package:
            yield from ((1, name) for name in _listed_in_all(node))


def _imported_by_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    argument = node.args[0] if node.args else None
    if name in _IMPORTING and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        imported = argument.value.lstrip(".")
        yield len(argument.value) - len(imported), imported


def _listed_in_all(node: ast.Assign) -> Iterator[str]:
    """Names in a package's ``__all__``: a star import imports those that are submodules."""
    if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
        for constant in ast.walk(node.value):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant.value

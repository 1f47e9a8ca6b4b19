"""Modules that are not there yet: something is done with one as soon as it has been imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Action = Callable[[ModuleType], None]

_waiting: dict[str, list[Action]] = {}


def when_imported(name: str, action: Action) -> Callable[[], None]:
    """Do something with a module: now where it is there, or else behind its import.

    Parameters
    ----------
    name : str
    action : callable
        Is given the module, in the thread that imports it; what it raises, the import raises.

    Returns
    -------
    callable
        Has it not done any more.
    """
    if name in sys.modules:
        action(sys.modules[name])
        return lambda: None
    _waiting.setdefault(name, []).append(action)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

    def forget() -> None:
        if action in _waiting.get(name, ()):
            _waiting[name].remove(action)

    return forget


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the others find, and has it loaded with what is to be done behind that."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _waiting.get(fullname):
            return None
        for finder in sys.meta_path:
            if not isinstance(finder, _Finder):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    _act_behind(spec)
                    return spec
        return None


def _act_behind(spec: importlib.machinery.ModuleSpec) -> None:
    load = getattr(spec.loader, "exec_module", None)
    if load is None:
        return

    def load_and_act(module: ModuleType) -> None:
        load(module)
        for action in _waiting.pop(spec.name, ()):
            action(module)

    spec.loader.exec_module = load_and_act  # type: ignore[method-assign,union-attr]

"""Calls, decorators and patterns that are known by their names for what they do."""

from __future__ import annotations

import ast

_NEVER_CALLING = frozenset(
    "property setter getter deleter cached_property staticmethod classmethod abstractmethod cache lru_cache "  # noqa: SIM905
    "wraps overload override final dataclass contextmanager asynccontextmanager no_grad".split()
)
_SWALLOWING = frozenset({"suppress", "raises", "assertRaises"})
_LEAVING = frozenset({"exit", "quit", "_exit", "abort"})
_RUNNING = frozenset({"exec", "eval"})
_NAMESPACES = frozenset({"globals", "locals", "vars"})
_IMPORTING = frozenset({"import_module", "__import__"})
_SECRET = "secret"  # noqa: S105
_SHELL_BINDING = frozenset({"run_line_magic", "run_cell_magic", "run_cell", "magic", "ex", "push", "user_ns"})

# Names that call for a look at the calls in a function's body.
TELLING = _IMPORTING | {_SECRET}


def last_name(node: ast.expr) -> str:
    """Return ``c`` for ``a.b.c`` and for ``c``; empty for any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def never_calls(decorator: ast.expr) -> bool:
    """Tell whether a decorator is known not to call what it decorates."""
    return last_name(decorator.func if isinstance(decorator, ast.Call) else decorator) in _NEVER_CALLING


def swallows(context: ast.expr) -> bool:
    """Tell whether a context manager is known to swallow errors of its body."""
    return isinstance(context, ast.Call) and last_name(context.func) in _SWALLOWING


def leaves(call: ast.Call) -> bool:
    """Tell whether a call may end the cell without an error."""
    return last_name(call.func) in _LEAVING


def binds_unseen(call: ast.Call) -> bool:
    """Tell whether a call at top level may bind names, or look them up, by their text."""
    if not isinstance(call.func, ast.Name):
        return False
    return call.func.id in _RUNNING or (call.func.id in _NAMESPACES and not call.args)


def body_binds_unseen(reads: frozenset[str], attributes: frozenset[str]) -> bool:
    """Tell whether a function that reads and mentions these names may bind names of the notebook by text."""
    return bool(reads & {"exec", "globals"} or ("get_ipython" in attributes and attributes & _SHELL_BINDING))


def is_get_ipython(node: ast.expr) -> bool:
    """Tell whether an expression is ``get_ipython()``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def secret_asked(call: ast.Call) -> str:
    """Name of the secret that a call asks for, or nothing."""
    return _constant_argument(call) if last_name(call.func) == _SECRET else ""


def module_imported(call: ast.Call) -> str:
    """Absolute name of the module that a call imports, or nothing."""
    name = _constant_argument(call) if last_name(call.func) in _IMPORTING else ""
    return "" if name.startswith(".") else name


def irrefutable(pattern: ast.pattern) -> bool:
    """Tell whether a pattern matches anything."""
    if isinstance(pattern, ast.MatchOr):
        return any(map(irrefutable, pattern.patterns))
    return isinstance(pattern, ast.MatchAs) and (pattern.pattern is None or irrefutable(pattern.pattern))


def _constant_argument(call: ast.Call) -> str:
    argument = call.args[0] if call.args else None
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""

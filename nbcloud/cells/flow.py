"""Definite assignment in a cell: which names it may read before it has bound them itself.

The cell's top-level code (with class bodies and comprehensions, which run where they stand) is visited in
the order of its evaluation. ``bound`` holds the names that every way to the present place has bound or
deleted: the notebook's value of such a name is out of sight from there on. All else that is loaded is a
read. Bodies of functions come from their bytecode, and count as run where the function can first be reached.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count

from nbcloud.cells.bytecode import CodeNames, names_in_string
from nbcloud.cells.magics import MagicEffect, cell_magic, expanded_names, line_magic, words
from nbcloud.cells.source import NOT_PYTHON, ParsedCell, parse

# A name of the notebook, or (key of a class's scope, name in that class).
_Bound = str | tuple[int, str]
_Function = ast.FunctionDef | ast.AsyncFunctionDef

_SWALLOWING = frozenset({"suppress", "raises", "assertRaises"})
_PASSIVE = frozenset(
    {
        "property",
        "setter",
        "getter",
        "deleter",
        "cached_property",
        "staticmethod",
        "classmethod",
        "abstractmethod",
    }
    | {
        "cache",
        "lru_cache",
        "wraps",
        "overload",
        "override",
        "final",
        "dataclass",
        "contextmanager",
        "no_grad",
    }
)
_LEAVING = frozenset({"exit", "quit", "_exit", "abort"})
_UNSEEN_CALLS = frozenset({"exec", "eval"})
_NAMESPACE_CALLS = frozenset({"globals", "locals", "vars"})
_IMPORTING = frozenset({"import_module", "__import__"})
# Names whose calls in the body of a function need a look at their arguments.
_TELLING = frozenset({"secret"}) | _IMPORTING
_RUNNING_MAGICS = frozenset(
    {"run_line_magic", "run_cell_magic", "run_cell", "magic", "ex", "push", "user_ns"}
)


@dataclass
class _Scope:
    """A scope inside the cell's top level: a class body, or the targets of a comprehension."""

    key: int
    is_class: bool
    names: set[str] = field(default_factory=set)
    """Comprehension: its targets. Class: names that it declares global."""
    functions: dict[str, set[str]] = field(default_factory=dict)
    """Class: what its methods and inner classes read."""


class Flow:
    """Visits a cell once; the attributes then hold what was found.

    Attributes
    ----------
    reads, binds, deletes, imports, secrets : set of str
        As in :class:`nbcloud.cells.analysis.CellNames`.
    required : dict
        Line in the cell and column in bytes of each name that is certainly evaluated, in order.
    unseen : bool
        The cell may bind names that the visit can't see.
    """

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.deletes: set[str] = set()
        self.imports: set[str] = set()
        self.secrets: set[str] = set()
        self.required: dict[str, tuple[int, int]] = {}
        self.unseen = False

        self._bound: set[_Bound] = {"get_ipython"}  # each kernel has its own
        self._touched: set[_Bound] = set()  # what may have been bound by now, on any way
        self._loaded: set[str] = set()
        self._dead = False  # no way leads to the present place
        self._sure = True  # nothing until now could have bound a name unseen, or left the cell
        self._conditional = 0
        self._in_annotation = False
        self._scopes: list[_Scope] = []
        self._scope_keys = count()
        self._waiting: dict[str, set[str]] = {}  # function: what it reads, once somebody can call it
        self._cell: ParsedCell
        self._attributes: frozenset[str] = frozenset()  # all names in the cell, in any role
        self._shell_in_hand = False  # code holds the IPython shell, and may look names up by their text

    def visit_cell(self, cell: ParsedCell) -> None:
        """Visit a whole cell."""
        self._run(cell)
        self._reach_all()

    def doubt(self) -> None:
        """Hold nothing after this place for certain."""
        self._sure = False

    def _run(self, cell: ParsedCell) -> None:
        self._cell = cell
        self._attributes = frozenset(name for code in cell.codes for name in code.co_names) - {"get_ipython"}
        self._visit_all(cell.tree.body)

    # ── names ────────────────────────────────────────────────────────────────────────────────────

    def _load(self, name: str, node: ast.expr | None = None) -> None:
        for depth, scope in enumerate(reversed(self._scopes)):
            if not scope.is_class:
                if name in scope.names:
                    return
            elif depth == 0 and name not in scope.names:
                for read in scope.functions.get(name, ()):
                    self._load_global(read)
                key = (scope.key, name)
                if key in self._bound:
                    return
                if key in self._touched:
                    node = None
        self._load_global(name, node)

    def _load_global(self, name: str, node: ast.expr | None = None) -> None:
        self._loaded.add(name)
        if name == "get_ipython":
            self._shell_in_hand = True
            self._lose_sight()
        if name not in self._bound:
            self.reads.add(name)
            if node is not None and self._certain and name not in self._touched and name not in self.required:
                self.required[name] = (self._cell.lines[node.lineno - 1], node.col_offset)
        if name in self._waiting:
            self._reach(name)

    @property
    def _certain(self) -> bool:
        return self._sure and not self._conditional

    def _store(self, name: str) -> None:
        for scope in reversed(self._scopes):
            if scope.is_class and name not in scope.names:
                self._mark((scope.key, name))
                return
            if not scope.is_class and name in scope.names:
                return
        self.binds.add(name)
        self._mark(name)

    def _delete(self, name: str) -> None:
        self._load(name)
        scope = self._scopes[-1] if self._scopes else None
        if scope is not None and scope.is_class and name not in scope.names:
            self._mark((scope.key, name))
        else:
            self.deletes.add(name)
            self._mark(name)

    def _mark(self, key: _Bound) -> None:
        self._bound.add(key)
        self._touched.add(key)

    def _lose_sight(self) -> None:
        """From here on, names may be bound unseen and functions may be called by any way."""
        self.unseen = True
        self._sure = False
        self._reach_all()

    # ── functions ────────────────────────────────────────────────────────────────────────────────

    def _reach(self, function: str) -> None:
        """Count a function as called here. It waits on: another branch may reach it with less bound."""
        pending, seen = [function], {function}
        while pending:
            for name in self._waiting[pending.pop()]:
                self._loaded.add(name)
                if name not in self._bound:
                    self.reads.add(name)
                if name in self._waiting and name not in seen:
                    seen.add(name)
                    pending.append(name)

    def _reach_all(self) -> None:
        for function in self._waiting:
            self._reach(function)

    def _body_names(self, name: str, node: ast.AST, first_line: int) -> CodeNames:
        """Global names in the body of a function, whose side effects are noted."""
        names = self._cell.functions.get((name, first_line), CodeNames())
        self.imports |= names.imports
        self.binds |= names.binds
        self._touched |= names.binds | names.deletes
        if names.attributes & _TELLING:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call):
                    self._note_call(inner)
        if names.reads & {"exec", "globals"} or (
            "get_ipython" in names.attributes and names.attributes & _RUNNING_MAGICS
        ):
            self._lose_sight()
        return names

    def _visit_function(self, node: _Function) -> None:
        arguments = node.args
        self._visit_all(node.decorator_list)
        self._visit_all(arguments.defaults)
        self._visit_all(arguments.kw_defaults)
        with self._type_parameters(node):
            every = (
                *arguments.posonlyargs,
                *arguments.args,
                arguments.vararg,
                *arguments.kwonlyargs,
                arguments.kwarg,
            )
            for argument in every:
                if argument is not None:
                    self._visit_annotation(argument.annotation)
            self._visit_annotation(node.returns)
        reads = set(self._body_names(node.name, node, _first_line(node)).reads)
        self._define(node.name, reads, waits=all(map(_passive, node.decorator_list)))

    def _define(self, name: str, reads: set[str], waits: bool) -> None:
        """Bind a function or class; what its body reads is read where somebody can first call it.

        ``waits`` says that nothing calls it before it has its name.
        """
        scope = self._scopes[-1] if self._scopes else None
        if scope is not None and scope.is_class:
            scope.functions[name] = scope.functions.get(name, set()) | reads
        elif waits and not (scope or self._conditional or self.unseen or name in self._loaded):
            self._waiting[name] = self._waiting.get(name, set()) | reads
        else:
            waits = False
        if not waits:
            # Its own name is no read, or each decorated recursive function would want its predecessor.
            for read in reads - {name}:
                self._load_global(read)
        self._store(name)

    def _visit_lambda(self, node: ast.Lambda) -> None:
        self._visit_all(node.args.defaults)
        self._visit_all(node.args.kw_defaults)
        for name in self._body_names("<lambda>", node, node.lineno).reads:
            self._load_global(name)

    def _visit_class(self, node: ast.ClassDef) -> None:
        self._visit_all(node.decorator_list)
        with self._type_parameters(node):
            self._visit_all(node.bases)
            self._visit_all(node.keywords)
            # A base class or metaclass may supply names to the body, and call methods at once.
            inherits = bool(node.bases or node.keywords)
            scope = _Scope(next(self._scope_keys), is_class=True)
            self._bound |= {(scope.key, "__module__"), (scope.key, "__qualname__")}
            self._scopes.append(scope)
            self._conditional += inherits
            self._visit_all(node.body)
            self._conditional -= inherits
            self._scopes.pop()
        reads = set().union(*scope.functions.values())
        self._define(node.name, reads, waits=not inherits and all(map(_passive, node.decorator_list)))

    def _visit_annotation(self, node: ast.expr | None) -> None:
        """Read an annotation's names: at once, later or never, depending on version and future imports."""
        if node is None:
            return
        with self._maybe():
            outer, self._in_annotation = self._in_annotation, True
            self._visit(node)
            self._in_annotation = outer

    @contextmanager
    def _type_parameters(self, node: ast.AST) -> Iterator[None]:
        parameters = getattr(node, "type_params", ())  # Python 3.12
        if not parameters:
            yield
            return
        self._scopes.append(
            _Scope(next(self._scope_keys), is_class=False, names={parameter.name for parameter in parameters})
        )
        with self._maybe():
            self._visit_all(parameters)
        yield
        self._scopes.pop()

    def _visit_type_alias(self, node: ast.AST) -> None:
        name: ast.Name = node.name  # type: ignore[attr-defined]  # Python 3.12
        with self._type_parameters(node):
            self._visit_annotation(node.value)  # type: ignore[attr-defined]
        self._store(name.id)

    # ── ways through the cell ────────────────────────────────────────────────────────────────────

    @contextmanager
    def _maybe(self) -> Iterator[None]:
        """Visit code that may not run: what it binds is not definite."""
        bound, dead = set(self._bound), self._dead
        self._conditional += 1
        yield
        self._conditional -= 1
        self._bound, self._dead = bound, dead

    def _alternatives(self, paths: Iterable[Callable[[], None]]) -> None:
        """Visit paths of which one is taken; bound is what all those bind that end normally."""
        before, dead = self._bound, self._dead
        ends: list[set[_Bound]] = []
        self._conditional += 1
        for path in paths:
            self._bound, self._dead = set(before), dead
            path()
            if not self._dead:
                ends.append(self._bound)
        self._conditional -= 1
        self._dead = not ends
        self._bound = set.intersection(*ends) if ends else set(before)

    def _visit_condition(self, node: ast.expr) -> set[_Bound]:
        """Visit a condition and return what is bound where it holds."""
        if not (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)):
            self._visit(node)
            return self._bound
        self._visit(node.values[0])
        with self._maybe():
            self._visit_all(node.values[1:])
            return self._bound

    def _visit_bool(self, node: ast.BoolOp) -> None:
        self._visit(node.values[0])
        with self._maybe():
            self._visit_all(node.values[1:])

    def _visit_compare(self, node: ast.Compare) -> None:
        self._visit(node.left)
        self._visit(node.comparators[0])
        if len(node.comparators) > 1:
            with self._maybe():
                self._visit_all(node.comparators[1:])

    def _visit_if(self, node: ast.If | ast.IfExp) -> None:
        holds = set(self._visit_condition(node.test))

        def then() -> None:
            self._bound |= holds
            self._visit_block(node.body)

        self._alternatives([then, lambda: self._visit_block(node.orelse)])

    def _visit_for(self, node: ast.For | ast.AsyncFor) -> None:
        self._visit(node.iter)
        with self._maybe():
            self._visit(node.target)
            self._visit_all(node.body)
        with self._maybe():
            self._visit_all(node.orelse)

    def _visit_while(self, node: ast.While) -> None:
        holds = set(self._visit_condition(node.test))
        with self._maybe():
            self._bound |= holds
            self._visit_all(node.body)
        with self._maybe():
            self._visit_all(node.orelse)

    def _visit_try(self, node: ast.Try | ast.TryStar) -> None:
        before = set(self._bound)

        def body() -> None:
            self._visit_all(node.body)
            self._visit_all(node.orelse)

        def handler(handled: ast.ExceptHandler) -> Callable[[], None]:
            return lambda: self._visit_handler(handled)

        self._alternatives([body, *map(handler, node.handlers)])
        if isinstance(node, ast.TryStar):
            self._bound &= before  # more than one handler may run
        if node.finalbody:
            after, dead = self._bound, self._dead
            self._bound, self._dead = set(before), False
            self._conditional += 1
            self._visit_all(node.finalbody)
            self._conditional -= 1
            self._bound |= after
            self._dead |= dead

    def _visit_handler(self, node: ast.ExceptHandler) -> None:
        self._visit(node.type)
        if node.name:
            self._store(node.name)
        self._visit_all(node.body)

    def _visit_with(self, node: ast.With | ast.AsyncWith) -> None:
        outer_conditional = self._conditional
        for item in node.items:
            self._visit(item.context_expr)
            # A context manager may swallow errors of all that follows.
            self._conditional = outer_conditional + 1
            self._visit(item.optional_vars)
        before, dead = set(self._bound), self._dead
        self._visit_all(node.body)
        self._conditional = outer_conditional
        if any(_swallows(item.context_expr) for item in node.items):
            self._bound, self._dead = before, dead

    def _visit_match(self, node: ast.Match) -> None:
        self._visit(node.subject)

        def case(matched: ast.match_case) -> Callable[[], None]:
            def path() -> None:
                self._visit(matched.pattern)
                self._visit(matched.guard)
                self._visit_all(matched.body)

            return path

        paths = [case(matched) for matched in node.cases]
        if not any(matched.guard is None and _irrefutable(matched.pattern) for matched in node.cases):
            paths.append(lambda: None)
        self._alternatives(paths)

    def _visit_capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self._visit_children(node)
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self._store(name)

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        first, *others = node.generators
        self._visit(first.iter)  # the only part that is evaluated outside
        targets = {
            name.id
            for clause in node.generators
            for name in ast.walk(clause.target)
            if isinstance(name, ast.Name)
        }
        self._scopes.append(_Scope(next(self._scope_keys), is_class=False, names=targets))
        with self._maybe():
            for clause in (first, *others):
                if clause is not first:
                    self._visit(clause.iter)
                self._visit(clause.target)
                for condition in clause.ifs:
                    self._bound = set(self._visit_condition(condition))
            elements = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
            self._visit_all(elements)
        self._scopes.pop()

    def _visit_jump(self, node: ast.Raise | ast.Break | ast.Continue) -> None:
        self._visit_children(node)
        self._dead = True
        if isinstance(node, ast.Raise):
            self.doubt()

    def _visit_assert(self, node: ast.Assert) -> None:
        self._visit(node.test)
        with self._maybe():
            self._visit(node.msg)

    # ── statements and expressions that bind or read ─────────────────────────────────────────────

    def _visit_name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._load(node.id, node)
        elif isinstance(node.ctx, ast.Store):
            self._store(node.id)
        else:
            self._delete(node.id)

    def _visit_assign(self, node: ast.Assign) -> None:
        self._visit(node.value)
        self._visit_all(node.targets)

    def _visit_augmented(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._load(node.target.id, node.target)
            self._visit(node.value)
            self._store(node.target.id)
        else:
            self._visit(node.target)
            self._visit(node.value)

    def _visit_annotated(self, node: ast.AnnAssign) -> None:
        self._visit(node.value)
        if node.value is not None or not isinstance(node.target, ast.Name):
            self._visit(node.target)
        self._visit_annotation(node.annotation)

    def _visit_walrus(self, node: ast.NamedExpr) -> None:
        self._visit(node.value)
        self._store(node.target.id)

    def _visit_dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            self._visit(key)
            self._visit(value)

    def _visit_global(self, node: ast.Global) -> None:
        if self._scopes:
            self._scopes[-1].names.update(node.names)

    def _visit_import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports.add(alias.name)
            self._store(alias.asname or alias.name.partition(".")[0])

    def _visit_import_from(self, node: ast.ImportFrom) -> None:
        if node.module and not node.level:
            self.imports.add(node.module)
        for alias in node.names:
            if alias.name == "*":
                self._lose_sight()
                continue
            if node.module and not node.level:
                self.imports.add(f"{node.module}.{alias.name}")
            self._store(alias.asname or alias.name)

    def _visit_subscript(self, node: ast.Subscript) -> None:
        self._visit(node.value)
        if self._in_annotation and _last_name(node.value) == "Literal":
            self._in_annotation = False
            self._visit(node.slice)
            self._in_annotation = True
        else:
            self._visit(node.slice)

    def _visit_constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str):
            return
        if self._in_annotation:
            self._visit_forward_reference(node.value)
        attributes = self._attributes | {"get_ipython"} if self._shell_in_hand else self._attributes
        for name in names_in_string(node.value, attributes):
            self._load_global(name)

    def _visit_forward_reference(self, text: str) -> None:
        try:
            expression = ast.parse(text.strip(), mode="eval").body
        except NOT_PYTHON:
            return
        for node in ast.walk(expression):
            if isinstance(node, ast.Name):
                self._load(node.id)

    def _visit_call(self, node: ast.Call) -> None:
        name = _last_name(node.func)
        if isinstance(node.func, ast.Attribute) and _is_get_ipython(node.func.value):
            self._visit_shell_call(node.func.attr, node)
            return
        self._visit_children(node)
        self._note_call(node)
        if name in _LEAVING:
            self.doubt()
        elif isinstance(node.func, ast.Name) and (
            name in _UNSEEN_CALLS or (name in _NAMESPACE_CALLS and not node.args)
        ):
            self._lose_sight()

    def _note_call(self, node: ast.Call) -> None:
        """Note the constant argument of a call that asks for a secret or imports a module."""
        name = _last_name(node.func)
        text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if not isinstance(text, str):
            return
        if name == "secret":
            self.secrets.add(text)
        elif name in _IMPORTING and not text.startswith("."):
            self.imports.add(text)

    # ── magics ───────────────────────────────────────────────────────────────────────────────────

    def _visit_shell_call(self, method: str, node: ast.Call) -> None:
        """Visit ``get_ipython().method(...)``, which is also what IPython makes of magics."""
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        match method, texts:
            case "run_line_magic", [str(name), str(line)]:
                effect = line_magic(name, line)
            case "run_cell_magic", [str(name), str(line), str(body)]:
                effect = cell_magic(name, line, body)
            case "magic", [str(text)]:
                effect = line_magic(*text.lstrip("%").partition(" ")[::2])
            case (("system" | "getoutput"), [str(command)]):
                effect = MagicEffect(expanded_names(command))
            case "show_usage", []:
                effect = MagicEffect()
            case _:
                self._visit_children(node)
                self._lose_sight()
                return
        self._run_magic(effect, self._cell.lines[node.lineno - 1])

    def _run_magic(self, effect: MagicEffect, line: int) -> None:
        self._sure = self._sure and effect.certain
        for name in effect.reads:
            self._load(name)
        self.imports |= effect.imports
        if effect.code.strip():
            self._run_magic_code(effect, line)
        self.doubt()
        for name in effect.binds:
            self._store(name)
        if effect.unseen:
            self._lose_sight()

    def _run_magic_code(self, effect: MagicEffect, line: int) -> None:
        try:
            cell = parse(effect.code, line)
        except NOT_PYTHON:
            if not effect.optional:
                for name in words(effect.code):
                    self._load(name)
                self._lose_sight()
            return
        outer, attributes = self._cell, self._attributes
        binds, deletes, bound = set(self.binds), set(self.deletes), set(self._bound)
        self._run(cell)
        self._cell, self._attributes = outer, attributes
        if not effect.keeps:
            self.binds, self.deletes, self._bound = binds, deletes, bound

    # ── dispatch ─────────────────────────────────────────────────────────────────────────────────

    def _visit(self, node: ast.AST | None) -> None:
        if node is None:
            return
        handler = _HANDLERS.get(type(node))
        if handler is None:
            self._visit_children(node)
        else:
            handler(self, node)

    def _visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit_block(self, block: ast.expr | Sequence[ast.stmt]) -> None:
        if isinstance(block, ast.expr):
            self._visit(block)
        else:
            self._visit_all(block)

    def _visit_children(self, node: ast.AST) -> None:
        for name in _child_fields(type(node)):
            child = getattr(node, name, None)
            if isinstance(child, list):
                for item in child:
                    if isinstance(item, ast.AST):
                        self._visit(item)
            elif isinstance(child, ast.AST):
                self._visit(child)


@cache
def _child_fields(kind: Callable[..., ast.AST]) -> tuple[str, ...]:
    # The fields of all nodes without a handler stand in the order of their evaluation.
    fields: tuple[str, ...] = getattr(kind, "_fields", ())
    return tuple(name for name in fields if name not in {"ctx", "op", "ops", "kind", "type_comment"})


def _first_line(node: _Function) -> int:
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_get_ipython(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def _swallows(context: ast.expr) -> bool:
    return isinstance(context, ast.Call) and _last_name(context.func) in _SWALLOWING


def _passive(decorator: ast.expr) -> bool:
    """Tell whether a decorator is known not to call what it decorates."""
    return _last_name(decorator.func if isinstance(decorator, ast.Call) else decorator) in _PASSIVE


def _irrefutable(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchOr):
        return any(map(_irrefutable, pattern.patterns))
    return isinstance(pattern, ast.MatchAs) and (pattern.pattern is None or _irrefutable(pattern.pattern))


_HANDLERS: dict[type[ast.AST], Callable[..., None]] = {
    ast.AnnAssign: Flow._visit_annotated,
    ast.Assert: Flow._visit_assert,
    ast.Assign: Flow._visit_assign,
    ast.AsyncFor: Flow._visit_for,
    ast.AsyncFunctionDef: Flow._visit_function,
    ast.AsyncWith: Flow._visit_with,
    ast.AugAssign: Flow._visit_augmented,
    ast.BoolOp: Flow._visit_bool,
    ast.Break: Flow._visit_jump,
    ast.Call: Flow._visit_call,
    ast.ClassDef: Flow._visit_class,
    ast.Compare: Flow._visit_compare,
    ast.Constant: Flow._visit_constant,
    ast.Continue: Flow._visit_jump,
    ast.Dict: Flow._visit_dict,
    ast.DictComp: Flow._visit_comprehension,
    ast.For: Flow._visit_for,
    ast.FunctionDef: Flow._visit_function,
    ast.GeneratorExp: Flow._visit_comprehension,
    ast.Global: Flow._visit_global,
    ast.If: Flow._visit_if,
    ast.IfExp: Flow._visit_if,
    ast.Import: Flow._visit_import,
    ast.ImportFrom: Flow._visit_import_from,
    ast.Lambda: Flow._visit_lambda,
    ast.ListComp: Flow._visit_comprehension,
    ast.Match: Flow._visit_match,
    ast.MatchAs: Flow._visit_capture,
    ast.MatchMapping: Flow._visit_capture,
    ast.MatchStar: Flow._visit_capture,
    ast.Name: Flow._visit_name,
    ast.NamedExpr: Flow._visit_walrus,
    ast.Raise: Flow._visit_jump,
    ast.SetComp: Flow._visit_comprehension,
    ast.Subscript: Flow._visit_subscript,
    ast.Try: Flow._visit_try,
    ast.TryStar: Flow._visit_try,
    ast.While: Flow._visit_while,
    ast.With: Flow._visit_with,
}
if hasattr(ast, "TypeAlias"):  # Python 3.12
    _HANDLERS[ast.TypeAlias] = Flow._visit_type_alias

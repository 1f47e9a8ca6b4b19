"""The ways through a cell: branches, loops, errors that are caught."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from nbcloud.cells.assignment import Assignment, Bound
from nbcloud.cells.idioms import irrefutable, swallows


class Flow(Assignment):
    """Visits syntax trees in the order of their evaluation, along every way that they may take.

    A loop's body is visited once: its first round sees the least bound, so it reads all that others read.
    """

    handlers: ClassVar[dict[type[ast.AST], Callable[..., None]]] = {}

    def visit(self, node: ast.AST | None) -> None:
        """Visit a node and all in it."""
        if node is None:
            return
        handler = self.handlers.get(type(node))
        if handler is None:
            self.visit_children(node)
        else:
            handler(self, node)

    def visit_all(self, nodes: Iterable[ast.AST | None]) -> None:
        """Visit nodes one after the other."""
        for node in nodes:
            self.visit(node)

    def visit_children(self, node: ast.AST) -> None:
        """Visit what is in a node."""
        for name in _CHILD_FIELDS[type(node)]:
            child = getattr(node, name, None)
            if isinstance(child, list):
                for item in child:
                    if isinstance(item, ast.AST):
                        self.visit(item)
            elif isinstance(child, ast.AST):
                self.visit(child)

    def _visit_block(self, block: ast.expr | Sequence[ast.stmt]) -> None:
        if isinstance(block, ast.expr):
            self.visit(block)
        else:
            self.visit_all(block)

    def _visit_condition(self, node: ast.expr) -> set[Bound]:
        """Visit a condition and return what is bound where it holds."""
        if not (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And)):
            self.visit(node)
            return set(self.bound)
        self.visit(node.values[0])
        with self.maybe():
            self.visit_all(node.values[1:])
            return set(self.bound)

    def _visit_bool(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        with self.maybe():
            self.visit_all(node.values[1:])

    def _visit_compare(self, node: ast.Compare) -> None:
        self.visit(node.left)
        self.visit(node.comparators[0])
        if len(node.comparators) > 1:
            with self.maybe():
                self.visit_all(node.comparators[1:])

    def _visit_if(self, node: ast.If | ast.IfExp) -> None:
        holds = self._visit_condition(node.test)

        def then() -> None:
            self.bound |= holds
            self._visit_block(node.body)

        self.alternatives([then, lambda: self._visit_block(node.orelse)])

    def _visit_for(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        with self.maybe():
            self.visit(node.target)
            self.visit_all(node.body)
        with self.maybe():
            self.visit_all(node.orelse)

    def _visit_while(self, node: ast.While) -> None:
        holds = self._visit_condition(node.test)
        with self.maybe():
            self.bound |= holds
            self.visit_all(node.body)
        with self.maybe():
            self.visit_all(node.orelse)

    def _visit_try(self, node: ast.Try | ast.TryStar) -> None:
        before = set(self.bound)

        def body() -> None:
            self.visit_all(node.body)
            self.visit_all(node.orelse)

        def handler(handled: ast.ExceptHandler) -> Callable[[], None]:
            # Its error may have come before the body has bound anything.
            return lambda: self._visit_handler(handled)

        self.alternatives([body, *map(handler, node.handlers)])
        if isinstance(node, ast.TryStar):
            self.bound &= before  # more than one handler may run
        if node.finalbody:
            self._visit_finally(node.finalbody, before)

    def _visit_handler(self, node: ast.ExceptHandler) -> None:
        self.visit(node.type)
        if node.name:
            self.store(node.name)
        self.visit_all(node.body)

    def _visit_finally(self, body: list[ast.stmt], before: set[Bound]) -> None:
        after, dead = self.bound, self.dead
        self.bound, self.dead = before, False
        self.conditional += 1
        self.visit_all(body)
        self.conditional -= 1
        self.bound |= after
        self.dead |= dead

    def _visit_with(self, node: ast.With | ast.AsyncWith) -> None:
        conditional = self.conditional
        for item in node.items:
            self.visit(item.context_expr)
            # From here on, it may swallow errors.
            self.conditional = conditional + 1
            self.visit(item.optional_vars)
        before, dead = set(self.bound), self.dead
        self.visit_all(node.body)
        self.conditional = conditional
        if any(swallows(item.context_expr) for item in node.items):
            self.bound, self.dead = before, dead

    def _visit_match(self, node: ast.Match) -> None:
        self.visit(node.subject)

        def path(case: ast.match_case) -> Callable[[], None]:
            return lambda: self.visit_children(case)

        paths = [path(case) for case in node.cases]
        if not any(case.guard is None and irrefutable(case.pattern) for case in node.cases):
            paths.append(lambda: None)
        self.alternatives(paths)

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> None:
        first = node.generators[0]
        self.visit(first.iter)  # the only part that is evaluated outside
        targets = {
            name.id
            for clause in node.generators
            for name in ast.walk(clause.target)
            if isinstance(name, ast.Name)
        }
        elements = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        with self.hidden(targets), self.maybe():
            for clause in node.generators:
                if clause is not first:
                    self.visit(clause.iter)
                self.visit(clause.target)
                for condition in clause.ifs:
                    self.bound = self._visit_condition(condition)
            self.visit_all(elements)

    def _visit_jump(self, node: ast.Raise | ast.Break | ast.Continue) -> None:
        self.visit_children(node)
        self.dead = True
        if isinstance(node, ast.Raise):
            self.doubt()

    def _visit_assert(self, node: ast.Assert) -> None:
        self.visit(node.test)
        with self.maybe():
            self.visit(node.msg)


Flow.handlers = {
    ast.Assert: Flow._visit_assert,
    ast.AsyncFor: Flow._visit_for,
    ast.AsyncWith: Flow._visit_with,
    ast.BoolOp: Flow._visit_bool,
    ast.Break: Flow._visit_jump,
    ast.Compare: Flow._visit_compare,
    ast.Continue: Flow._visit_jump,
    ast.DictComp: Flow._visit_comprehension,
    ast.For: Flow._visit_for,
    ast.GeneratorExp: Flow._visit_comprehension,
    ast.If: Flow._visit_if,
    ast.IfExp: Flow._visit_if,
    ast.ListComp: Flow._visit_comprehension,
    ast.Match: Flow._visit_match,
    ast.Raise: Flow._visit_jump,
    ast.SetComp: Flow._visit_comprehension,
    ast.Try: Flow._visit_try,
    ast.TryStar: Flow._visit_try,
    ast.While: Flow._visit_while,
    ast.With: Flow._visit_with,
}


# The fields of all nodes without a handler stand in the order of their evaluation.
_CHILD_FIELDS = {
    kind: tuple(name for name in kind._fields if name not in {"ctx", "op", "ops", "kind", "type_comment"})
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}

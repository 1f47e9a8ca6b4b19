"""Definite assignment: what is bound at a place in a cell, and what was read until there.

``bound`` holds the names that every way to the present place has bound or deleted: the notebook's value of
such a name is out of sight from there on, for good. All else that is loaded is a read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

# A name of the notebook, or (key of a class's scope, name in that class).
Bound = str | tuple[int, str]


@dataclass
class _Scope:
    """A scope inside a cell's top level: a class body, or names that hide those of the notebook."""

    key: int
    is_class: bool
    names: set[str] = field(default_factory=set)
    """The hiding names; of a class those that it declares global."""
    functions: dict[str, set[str]] = field(default_factory=dict)
    """Of a class: what its methods and inner classes read."""


class Assignment:
    """The state of a visit to a cell, in the order of its evaluation.

    Attributes
    ----------
    reads, binds, deletes : set of str
        As in :class:`nbcloud.cells.analysis.CellNames`.
    required : dict
        Line in the cell and column in bytes of each name that is certainly evaluated, in order.
    unseen : bool
        Names may have been bound that this class was not told of.
    bound : set
        What is bound or deleted on every way to the present place.
    dead : bool
        No way leads to the present place.
    conditional : int
        How many conditions the present place stands under.
    """

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.binds: set[str] = set()
        self.deletes: set[str] = set()
        self.required: dict[str, tuple[int, int]] = {}
        self.unseen = False
        self.bound: set[Bound] = set()
        self.dead = False
        self.conditional = 0
        self._touched: set[Bound] = set()  # what may have been bound by now, on any way
        self._loaded: set[str] = set()
        self._sure = True
        self._scopes: list[_Scope] = []
        self._scope_keys = count()
        self._waiting: dict[str, set[str]] = {}  # function: what it reads, once somebody can call it

    # ── names ────────────────────────────────────────────────────────────────────────────────────

    def load(self, name: str, place: tuple[int, int] | None = None) -> None:
        """Evaluate a name; ``place`` says where, if it is to be reported as required."""
        for depth, scope in enumerate(reversed(self._scopes)):
            if not scope.is_class:
                if name in scope.names:
                    return
            elif depth == 0 and name not in scope.names:  # functions inside a class don't see its names
                for read in scope.functions.get(name, ()):
                    self.load_global(read)
                if (scope.key, name) in self.bound:
                    return
                if (scope.key, name) in self._touched:
                    place = None
        self.load_global(name, place)

    def load_global(self, name: str, place: tuple[int, int] | None = None) -> None:
        """Evaluate a name in the notebook's namespace."""
        self._loaded.add(name)
        if name not in self.bound:
            self.reads.add(name)
            if place is not None and self._certain and name not in self._touched:
                self.required.setdefault(name, place)
        if name in self._waiting:
            self._reach(name)

    @property
    def _certain(self) -> bool:
        return self._sure and not self.conditional

    def store(self, name: str) -> None:
        """Bind a name in the present scope."""
        for scope in reversed(self._scopes):
            if scope.is_class and name not in scope.names:
                self._mark((scope.key, name))
                return
            if not scope.is_class and name in scope.names:
                return
        self.binds.add(name)
        self._mark(name)

    def delete(self, name: str) -> None:
        """Delete a name, which must be there."""
        self.load(name)
        scope = self._class_scope
        if scope is not None and name not in scope.names:
            self._mark((scope.key, name))
        else:
            self.deletes.add(name)
            self._mark(name)

    def may_bind(self, binds: Iterable[str], deletes: Iterable[str] = ()) -> None:
        """Note what a function binds whenever it is called."""
        self.binds.update(binds)
        self._touched.update(binds, deletes)

    def declare_global(self, names: Iterable[str]) -> None:
        """Note a ``global`` statement, which means something in a class body only."""
        if self._class_scope is not None:
            self._class_scope.names.update(names)

    def _mark(self, key: Bound) -> None:
        self.bound.add(key)
        self._touched.add(key)

    @property
    def _class_scope(self) -> _Scope | None:
        return self._scopes[-1] if self._scopes and self._scopes[-1].is_class else None

    # ── functions and classes ────────────────────────────────────────────────────────────────────

    def define(self, name: str, reads: set[str], waits: bool) -> None:
        """Bind a function or class whose body reads these names once somebody can call it.

        ``waits`` says that nobody does before it has its name.
        """
        scope = self._class_scope
        if scope is not None:
            scope.functions[name] = scope.functions.get(name, set()) | reads
        elif waits and not (self._scopes or self.conditional or self.unseen or name in self._loaded):
            self._waiting[name] = self._waiting.get(name, set()) | reads
        else:
            waits = False
        if not waits:
            # Its own name is no read, or each decorated recursive function would want its predecessor.
            for read in reads - {name}:
                self.load_global(read)
        self.store(name)

    def reach_all(self) -> None:
        """Count all functions as called here."""
        for function in self._waiting:
            self._reach(function)

    def _reach(self, function: str) -> None:
        """Count a function as called here. It waits on: another branch may reach it with less bound."""
        pending, seen = [function], {function}
        while pending:
            for name in self._waiting[pending.pop()]:
                self._loaded.add(name)
                if name not in self.bound:
                    self.reads.add(name)
                if name in self._waiting and name not in seen:
                    seen.add(name)
                    pending.append(name)

    @contextmanager
    def class_body(self, *, plain: bool) -> Iterator[set[str]]:
        """Visit a class body; the set yielded then holds what its methods read.

        ``plain`` says that it has neither base nor metaclass, which may supply names to the body.
        """
        scope = _Scope(next(self._scope_keys), is_class=True)
        self.bound |= {(scope.key, "__module__"), (scope.key, "__qualname__")}
        self._scopes.append(scope)
        self.conditional += not plain
        reads: set[str] = set()
        yield reads
        self.conditional -= not plain
        self._scopes.pop()
        reads.update(*scope.functions.values())

    @contextmanager
    def hidden(self, names: set[str]) -> Iterator[None]:
        """Visit code in which these names are not the notebook's."""
        self._scopes.append(_Scope(next(self._scope_keys), is_class=False, names=names))
        yield
        self._scopes.pop()

    # ── certainty ────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def maybe(self) -> Iterator[None]:
        """Visit code that may not run: what it binds is not definite."""
        bound, dead = set(self.bound), self.dead
        self.conditional += 1
        yield
        self.conditional -= 1
        self.bound, self.dead = bound, dead

    def alternatives(self, paths: Iterable[Callable[[], None]]) -> None:
        """Visit paths of which one is taken; bound is what all those bind that end normally."""
        before, dead = self.bound, self.dead
        ends: list[set[Bound]] = []
        self.conditional += 1
        for path in paths:
            self.bound, self.dead = set(before), dead
            path()
            if not self.dead:
                ends.append(self.bound)
        self.conditional -= 1
        self.dead = not ends
        self.bound = set.intersection(*ends) if ends else set(before)

    def doubt(self) -> None:
        """Hold nothing after this place for certain: the cell may have been left, or names bound."""
        self._sure = False

    def lose_sight(self) -> None:
        """From here on, names may be bound unseen, and functions be called by any way."""
        self.unseen = True
        self.doubt()
        self.reach_all()

"""What notebook and session last agreed on, name by name, and what has to travel since.

Names whose values share mutable objects (a model and its optimiser) form a bundle and travel together,
so that they share them at the other end too. A bundle is known by the hash that its sender gave it.
Pickles of equal values can differ between processes, so each side compares its own values with its *own*
hash of them, and tells the other the agreed one.
"""

from __future__ import annotations

import contextlib
import time
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nbcloud.cells.payloads import Payload, TooLarge, encode
from nbcloud.errors import NotPicklable

_ATOMS = (int, float, complex, str, bytes, bool, type(None), types.ModuleType)
_TWICE = 2**22
LOOK = 2**28
"""Bytes up to which a value is looked at, to see whether a cell has changed it in place."""

_Anchor = Callable[[], Any]


@dataclass(frozen=True)
class Bundle:
    """Names that travel together."""

    names: tuple[str, ...]
    payload: Payload


@dataclass(frozen=True)
class _Agreed:
    names: tuple[str, ...]
    hash: str
    own: str | None
    parts: frozenset[int]
    values: tuple[_Anchor, ...]
    stable: bool
    uses: frozenset[str]
    moment: object


def settled(value: Any) -> bool:
    """Whether a cell can't change a value in place in a way that is worth looking for."""
    if isinstance(value, types.FunctionType):
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        # A closure may count calls, a decorator may keep results.
        return not value.__closure__ and not value.__dict__ and all(map(settled, defaults))
    if isinstance(value, type):
        return value.__module__ != "__main__"
    return isinstance(value, _ATOMS)


def _anchor(value: Any) -> _Anchor:
    """What gives ``value`` again, and never another object that took its address."""
    if not isinstance(value, (*_ATOMS, type, types.FunctionType)):
        try:
            return weakref.ref(value)
        except TypeError:  # a list or a dict
            pass
    return lambda: value


def _alike(one: Payload, other: Payload) -> bool:
    return one.data == other.data and one.sizes == other.sizes


class Ledger:
    """The agreed state of one namespace with one other side.

    Parameters
    ----------
    namespace : mapping
        This side's names.
    moment : callable, optional
        Gives another answer each time when something may have changed this side's values.
    """

    def __init__(self, namespace: Mapping[str, Any], moment: Callable[[], object] = object) -> None:
        self._namespace = namespace
        self._moment = moment
        self._agreed: dict[str, _Agreed] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._agreed

    def agreed_hash(self, name: str) -> str | None:
        """The hash of the bundle in which ``name`` last travelled."""
        entry = self._agreed.get(name)
        return entry.hash if entry else None

    def uses_of(self, name: str) -> frozenset[str]:
        """Names that functions read which last travelled with ``name``, in either direction."""
        entry = self._agreed.get(name)
        return entry.uses if entry else frozenset()

    def parts_of(self, name: str) -> frozenset[int]:
        """Identities of the mutable objects in what last travelled with ``name``."""
        entry = self._agreed.get(name)
        return entry.parts if entry else frozenset()

    def bundle_of(self, name: str) -> tuple[str, ...]:
        """The names that last travelled with ``name``, itself included."""
        entry = self._agreed.get(name)
        return entry.names if entry else (name,)

    def forget(self, names: Iterable[str]) -> None:
        """The two sides no longer agree on these names, nor on those bundled with them."""
        for name in list(names):
            for member in self.bundle_of(name):
                self._agreed.pop(member, None)

    def clear(self) -> None:
        """Nothing is agreed on any more."""
        self._agreed.clear()

    def sent(self, bundle: Bundle) -> None:
        """The other side now has this side's values."""
        self._note(bundle.names, bundle.payload.hash, bundle.payload)

    def received(self, names: Iterable[str], entry: Mapping[str, Any]) -> None:
        """Note that this side now has the other's values, which came with ``entry``."""
        names, value_hash = tuple(sorted(names)), str(entry["hash"])
        payload = None
        with contextlib.suppress(NotPicklable, TooLarge):
            payload = self._pack(names, LOOK, None)
            payload.came_with(entry["buffers_hash"], entry["sizes"])
        self._note(names, value_hash, payload)

    def _note(self, names: tuple[str, ...], agreed: str, payload: Payload | None) -> None:
        self.forget(names)
        names = tuple(sorted(names))
        values = tuple(_anchor(self._namespace.get(name)) for name in names)
        stable, parts = True, frozenset[int]()
        own = payload.hash if payload is not None else None
        if payload is not None and payload.parts and len(payload.data) < _TWICE:
            # A second pickle tells whether its bytes repeat, and which objects outlive the pickling.
            again = self._pack(names, None, None)
            if not _alike(payload, again):  # being pickled may have changed it, once
                payload, again = again, self._pack(names, None, None)
                own = payload.hash
            stable = _alike(payload, again)
            parts = frozenset(again.parts.keys() & payload.parts.keys())
        uses = payload.uses if payload is not None else frozenset[str]()
        entry = _Agreed(names, agreed, own, parts, values, stable, uses, self._moment())
        for name in names:
            self._agreed[name] = entry

    def unchanged(self, name: str, *, limit: int | None = None) -> bool:
        """Whether this side's values of the name's bundle are those that were agreed on.

        Past ``limit`` bytes the answer is that of the objects' identities.
        """
        entry = self._agreed.get(name)
        if entry is None or any(member not in self._namespace for member in entry.names):
            return False
        values = {member: self._namespace[member] for member in entry.names}
        same = all(anchor() is value for anchor, value in zip(entry.values, values.values(), strict=True))
        if entry.own is None or (same and all(map(settled, values.values()))):
            return same
        if not entry.stable:  # its bytes tell nothing
            return same and entry.moment == self._moment()
        try:
            return encode(values, self._namespace, limit=limit).hash == entry.own
        except TooLarge:
            return same
        except NotPicklable:
            return False

    def bundles(
        self, names: Iterable[str], *, limit: int | None = None, seconds: float | None = None
    ) -> tuple[list[Bundle], dict[str, Exception]]:
        """Pack the values of ``names``, and of names that share objects with them, for travel.

        Parameters
        ----------
        names : iterable of str
            Names of this namespace.
        limit, seconds : optional
            The most bytes of one value, and the most time for all.

        Returns
        -------
        list of Bundle, dict
            The second tells, for each name that can't travel, why.
        """
        packed: dict[str, Payload] = {}
        refused: dict[str, Exception] = {}
        deadline = None if seconds is None else time.monotonic() + seconds
        # A bundle that one name leaves is agreed on anew, so all of its names travel.
        together = {mate for name in names for mate in self.bundle_of(name) if mate in self._namespace}
        for name in sorted(together):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                packed[name] = self._pack([name], limit, left)
            except (NotPicklable, TooLarge) as error:
                refused[name] = error
        found = []
        for group in self._groups(packed):
            if len(group) == 1:
                found.append(Bundle(tuple(group), packed[group[0]]))
                continue
            try:
                found.append(Bundle(tuple(group), self._pack(group, limit, None)))
            except (NotPicklable, TooLarge) as error:
                refused.update(dict.fromkeys(group, error))
        return found, refused

    def _pack(self, names: Iterable[str], limit: int | None, seconds: float | None) -> Payload:
        values = {name: self._namespace[name] for name in names}
        return encode(values, self._namespace, limit=limit, seconds=seconds)

    def _groups(self, packed: Mapping[str, Payload]) -> list[list[str]]:
        """Names joined by the mutable objects that they share, with agreed ones that share them too."""
        parts = {name: frozenset(payload.parts) for name, payload in packed.items()}
        for name, entry in self._agreed.items():
            if name not in parts and name in self._namespace and entry.parts:
                parts[name] = entry.parts
        owner: dict[int, str] = {}
        parent = {name: name for name in parts}

        def root(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for name in parts:
            for part in parts[name]:
                parent[root(owner.setdefault(part, name))] = root(name)
        groups: dict[str, list[str]] = {}
        for name in parts:
            groups.setdefault(root(name), []).append(name)
        return [sorted(group) for group in groups.values() if any(name in packed for name in group)]

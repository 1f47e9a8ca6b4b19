"""Which values of the notebook a cell needs, and which of them have to travel."""

from __future__ import annotations

import time
import types
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from nbcloud.cells.arrays import owner_of
from nbcloud.cells.ledger import Bundle, Ledger, settled
from nbcloud.cells.payloads import mutable_parts
from nbcloud.sessions.client.handles import Handle
from nbcloud.sessions.user_names import is_history

_SHARING_SECONDS = 0.1
"""On a processor: a name that is not found would silently not follow the changes of what it shares."""
_SHARING_LIMIT = 2**18


@dataclass
class Choice:
    """The inputs of one cell.

    Attributes
    ----------
    names : set of str
        All of them.
    modules, handles : dicts
        Those that are sent by what they are called.
    known : dict of str to tuple of str
        Hashes and names of bundles that the session has already.
    bundles : list of Bundle
        What has to travel.
    refused : dict of str to Exception
        What can't.
    """

    names: set[str] = field(default_factory=set)
    modules: dict[str, str] = field(default_factory=dict)
    handles: dict[str, Handle] = field(default_factory=dict)
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bundles: list[Bundle] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)

    def records(self) -> list[dict[str, Any]]:
        """For the run's record: ``name``, ``hash``, ``kind`` and ``bytes`` that travel."""
        records = [{"name": n, "hash": "", "kind": "module", "bytes": 0} for n in self.modules]
        records += [{"name": n, "hash": "", "kind": "handle", "bytes": 0} for n in self.handles]
        for value_hash, names in self.known.items():
            records += [{"name": n, "hash": value_hash, "kind": "value", "bytes": 0} for n in names]
        for bundle in self.bundles:
            payload = bundle.payload
            records += [
                {"name": n, "hash": payload.hash, "kind": "value", "bytes": payload.nbytes}
                for n in bundle.names
            ]
        return sorted(records, key=lambda record: str(record["name"]))


class Inputs:
    """The variables of one notebook, as candidates for travel to one session.

    Parameters
    ----------
    namespace : mapping
        The notebook's.
    ledger : Ledger
        What the session has.
    hidden : mapping
        Names that the notebook's shell put there by itself.
    """

    def __init__(
        self, namespace: MutableMapping[str, Any], ledger: Ledger, hidden: Mapping[str, Any]
    ) -> None:
        self._namespace = namespace
        self._ledger = ledger
        self._hidden = hidden

    def visible(self, name: str) -> bool:
        """Whether ``name`` is the user's own, rather than put there by IPython."""
        absent = object()
        return (
            name in self._namespace
            and not is_history(name)
            and self._hidden.get(name, absent) is not self._namespace[name]
        )

    def choose(self, wanted: Iterable[str], *, resend: bool = False) -> Choice:
        """Follow names to all that they need.

        Parameters
        ----------
        wanted : iterable of str
            Names that a cell may read; those that the notebook lacks are passed over.
        resend : bool
            Treat nothing as known.
        """
        choice = Choice()
        values: set[str] = set()
        known: set[str] = set()
        pending = {name for name in wanted if self.visible(name)}
        while pending:
            choice.names |= pending
            new = {name for name in pending if not self._by_name(name, choice)}
            values |= new
            if not resend:
                known |= {name for name in new if self._ledger.unchanged(name)}
            if new - known or not choice.bundles:
                choice.bundles, choice.refused = self._ledger.bundles(values - known)
            uses = {use for bundle in choice.bundles for use in bundle.payload.uses}
            uses |= self._sharing(choice, known)
            uses |= {use for name in known for use in self._ledger.uses_of(name)}
            pending = {name for name in uses if self.visible(name)} - choice.names
        travelling = {name for bundle in choice.bundles for name in bundle.names}
        for name in sorted(known - travelling):
            choice.known[self._ledger.agreed_hash(name) or ""] = self._ledger.bundle_of(name)
        return choice

    def _sharing(self, choice: Choice, known: set[str]) -> set[str]:
        """Names that the cell does not read, with values that share objects with those that it does.

        A model whose optimiser is sent without it would no longer be trained by it; and a name that was given
        to a value after that had been sent would not follow its changes. Inside values one looks only for
        what travels now.
        """
        travelling = {part for bundle in choice.bundles for part in bundle.payload.parts}
        there = {part for name in known for part in self._ledger.parts_of(name)}
        if not travelling and not there:
            return set()
        sharing = set()
        deadline = time.thread_time() + _SHARING_SECONDS
        for name, value in list(self._namespace.items()):
            if name in choice.names or isinstance(value, Handle) or settled(value) or not self.visible(name):
                continue
            itself = {id(value), id(owner_of(value))}
            if itself & (travelling | there) or (travelling and travelling & self._inside(value, deadline)):
                sharing.add(name)
        return sharing

    def _inside(self, value: Any, deadline: float) -> set[int]:
        left = deadline - time.thread_time()
        if left < 0:
            return set()
        return {*mutable_parts(value, self._namespace, limit=_SHARING_LIMIT, seconds=left)}

    def _by_name(self, name: str, choice: Choice) -> bool:
        value = self._namespace[name]
        if isinstance(value, types.ModuleType):
            choice.modules[name] = value.__name__
            return True
        if isinstance(value, Handle):
            choice.handles[name] = value
            return True
        return False

    def sent(self, bundles: Iterable[Bundle]) -> None:
        """The session has these now."""
        for bundle in bundles:
            self._ledger.sent(bundle)

"""The notebook's side of a session: what a cell needs is sent, what it left is bound.

One per notebook and session. Not thread-safe: it belongs to the thread that runs the notebook's cells.
"""

from __future__ import annotations

import builtins
import os
import secrets
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbcloud.cells.analysis import CellNames, Required, function_binds
from nbcloud.cells.ledger import Bundle, Ledger
from nbcloud.cells.modules import ModuleFile, local_modules
from nbcloud.errors import NotPicklable, SessionError, TransferError, UsageError
from nbcloud.sessions.client.inputs import Choice, Inputs
from nbcloud.sessions.client.link import Link
from nbcloud.sessions.client.relay import RelayedBlobs
from nbcloud.sessions.client.results import Results
from nbcloud.sessions.history import ToldInputs
from nbcloud.sessions.messages import CALL, content_of, frames
from nbcloud.sessions.parcels import Blobs, Parcels, SpooledBlobs
from nbcloud.sessions.sources import cell_sources, learn
from nbcloud.sessions.spool import is_shared

HEAVY = ("torch", "tensorflow", "keras", "jax")
"""Packages that a result does not import into the notebook's kernel unasked."""


@dataclass(frozen=True)
class Limits:
    """Sizes up to which results come home by value, in bytes."""

    home: int
    out: int


@dataclass
class Parcel:
    """What one cell sends: the JSON of its inputs, the buffers, and what is known of them afterwards."""

    inputs: list[dict[str, Any]] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    sent: list[Bundle] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def out_of_reach(handle: str) -> TransferError:
    """The error of a cell that reads a handle of another session than its own."""
    return TransferError(
        f"{handle} is a handle on a value in another session than the cell's.",
        f"Bring it here first: {handle} = {handle}.get()",
    )


def undefined(cell: CellNames, namespace: Mapping[str, Any]) -> list[Required]:
    """Names that a cell certainly needs and a notebook lacks, as the analysis found them."""
    functions = [f for f in map(namespace.get, cell.reads) if isinstance(f, types.FunctionType)]
    bound_by_calls = {name for function in functions for name in function_binds(function.__code__)}
    return [
        required
        for required in cell.required
        if required.name not in namespace
        and required.name not in bound_by_calls
        and not hasattr(builtins, required.name)
    ]


class Session:
    """A session as one notebook sees it.

    Parameters
    ----------
    link : Link
    facts : dict
        The journal's answer to ``open``.
    namespace : mapping
        The notebook's.
    hidden : mapping
        Names that the notebook's shell put there by itself.
    shell : object, optional
        The notebook's IPython shell; its cells' texts go with functions defined in them.
    moment : callable, optional
        Gives another answer each time when something may have changed the notebook's values.
    """

    def __init__(
        self,
        link: Link,
        facts: dict[str, Any],
        namespace: MutableMapping[str, Any],
        *,
        hidden: MutableMapping[str, Any] | None = None,
        shell: Any = None,
        moment: Callable[[], object] = object,
    ) -> None:
        self.link = link
        self.workers: int = facts["workers"]
        """Of a gang: how many; 0 when it is one kernel."""
        if not self.workers:  # else nobody but the journal hears of all ranks
            link.shorten(facts["worker"], facts["host_id"])
        self.id: str = facts["id"]
        self.name: str = facts["name"]
        self.worker: str = facts["worker"]
        self.host: str = facts["host"]
        self.names: set[str] = set(facts["names"])
        self.resumed = bool(facts["names"])
        self.lost = ""
        self.over = False
        """Whether its host has told of its end, which the journal may not know yet."""
        self.resources: dict[str, float] = facts["resources"]
        self.worker_names: list[str] = facts["worker_names"]
        self.released: deque[str] = deque()
        # What is behind a forward is another machine's, whatever its folders are called.
        self.shared = link.info.kind != "kubernetes" and all(is_shared(*spool) for spool in facts["spools"])
        self.namespace = namespace
        self._shell = shell
        # The workers of a gang on several machines each have their own.
        self._spool: str = facts["spool"] if self.shared or not self.workers else ""
        self._ledger = Ledger(namespace, moment)
        self.inputs = Inputs(namespace, self._ledger, hidden or {})
        self._modules: dict[str, str] = {}
        self._sources: set[str] = set()
        self._told = ToldInputs(shell)
        self.blobs: Blobs = SpooledBlobs(Path(facts["spool"])) if self.shared else RelayedBlobs(link, self.id)
        self._results = Results(self, namespace, self._ledger, self.blobs, shell)

    @property
    def where(self) -> str:
        """For people: which session on which cluster."""
        return f"session {self.name!r} of cluster {self.link.info.name!r}"

    # Out

    def undefined(self, cell: CellNames) -> list[Any]:
        """Names that the cell certainly needs and nobody has, as the analysis found them.

        A cell that would only come to such a name after an hour's work is refused all the same: here alone it
        is not as in the notebook's own kernel.
        """
        lacking = [each for each in undefined(cell, self.namespace) if each.name not in self.names]
        if lacking:  # another notebook may have bound it meanwhile
            facts = next((f for f in self.link.ask("sessions") if f["id"] == self.id), None)
            if facts is None or facts["active"] or facts["queued"]:
                return []
            self.names = set(facts["names"])
        return [required for required in lacking if required.name not in self.names]

    def pack(self, wanted: Iterable[str], *, resend: bool = False) -> Parcel:
        """Pack the values of names, and of all that functions among them use in turn.

        Parameters
        ----------
        wanted : iterable of str
            Names that the cell may read; those that the notebook lacks are passed over.
        resend : bool
            Send values although they were sent before.
        """
        return self.parcel(self.inputs.choose(wanted, resend=resend))

    def parcel(self, choice: Choice) -> Parcel:
        """Pack inputs that are chosen."""
        foreign = next((name for name, handle in choice.handles.items() if not handle.held_by(self)), None)
        if foreign is not None:
            raise out_of_reach(foreign)
        parcels = Parcels(self.blobs)
        parcel = Parcel(sent=choice.bundles, refused=choice.refused, names=choice.names)
        for name, module in choice.modules.items():
            parcel.inputs.append({"names": [name], "kind": "module", "module": module})
        for name, handle in choice.handles.items():
            parcel.inputs.append({"names": [name], "kind": "handle", "id": handle.id})
        for value_hash, names in choice.known.items():
            parcel.inputs.append({"names": list(names), "kind": "value", "hash": value_hash, "data": None})
        for bundle in choice.bundles:
            entry = {"names": list(bundle.names), "kind": "value", **parcels.add(bundle.payload)}
            parcel.inputs.append(entry)
            parcel.files |= bundle.payload.files
        parcel.records = choice.records()
        parcel.buffers = parcels.buffers
        return parcel

    def request(
        self,
        run: str,
        cell: CellNames,
        parcel: Parcel,
        *,
        count: int,
        out: Sequence[str],
        auto: bool,
        limits: Limits,
        secret_values: dict[str, str],
        cache: str = "",
        params: Sequence[str] = (),
    ) -> tuple[dict[str, Any], list[Any]]:
        """The ``nbcloud`` part of a cell's metadata, and all buffers.

        ``cache`` is a hash of the code when a run with the same code and inputs may stand for this one;
        ``params`` are names whose values are put on record as the run's parameters.
        """
        buffers = list(parcel.buffers)
        modules = self._local_modules(cell, parcel, buffers)
        dropped = sorted(name for name in cell.reads & self._results.mirrored if name not in self.namespace)
        self._ledger.forget(dropped)
        released = [self.released.popleft() for _ in range(len(self.released))]
        request = {
            "run": run,
            "count": count,
            "spool": self._spool,
            "cwd": _cwd(),
            "path": [
                entry for entry in sys.path if entry and not entry.startswith((sys.prefix, sys.base_prefix))
            ],
            "inputs": parcel.inputs,
            "reads": sorted(parcel.names),
            "binds": sorted(cell.binds),
            "drop": dropped,
            "out": list(out),
            "auto": auto,
            "home_limit": limits.home,
            "out_limit": limits.out,
            "changed_limit": limits.out if self.shared else limits.home,
            "heavy": [package for package in HEAVY if package not in sys.modules],
            "modules": modules,
            "sources": cell_sources(self._shell, parcel.files, self._sources) if self._shell else [],
            "history": self._told.news() if run else {},
            "released": released,
            "secrets": secret_values,
            "cache": bool(cache),
            "code_hash": cache,
            "params": list(params),
            "uses": sorted(cell.reads | parcel.names) if cache else [],
        }
        return request, buffers

    def _local_modules(self, cell: CellNames, parcel: Parcel, buffers: list[Any]) -> list[dict[str, Any]]:
        """Modules of the user's own that the cell may import or uses by name."""
        names = set(cell.imports) | {entry["module"] for entry in parcel.inputs if entry["kind"] == "module"}
        names |= {
            str(getattr(self.namespace.get(name), "__module__", "") or "")
            for name in parcel.names
            if callable(self.namespace.get(name))
        }
        names -= {"__main__", ""}
        entries = []
        for file in local_modules(names).values() if names else ():
            entry = _module_entry(file)
            if not self.shared and self._modules.get(file.name) != file.hash:
                entry["data"] = len(buffers)
                buffers.append(file.path.read_bytes())
            entries.append(entry)
            self._modules[file.name] = file.hash
        return entries

    def sent(self, parcel: Parcel) -> None:
        """The session has the parcel's values now."""
        self.inputs.sent(parcel.sent)
        self._results.mirrored |= parcel.names
        self.names |= {name for entry in parcel.inputs for name in entry["names"]}

    def missing(self, hashes: Iterable[str], parcel: Parcel) -> None:
        """The session lacks what it was believed to have, and took nothing of ``parcel``: forget both."""
        lacking = set(hashes)
        self._told.forget()
        for bundle in parcel.sent:
            self._ledger.forget(bundle.names)
        for name in list(self.namespace):
            if self._ledger.agreed_hash(name) in lacking:
                self._ledger.forget([name])
        self._modules = {name: value for name, value in self._modules.items() if value not in lacking}

    # Home

    def receive(self, names: dict[str, Any], buffers: Sequence[Any], run: str = "") -> list[dict[str, Any]]:
        """Bind what a cell, that of ``run``, left in the notebook's namespace.

        Returns
        -------
        list of dict
            For the record: ``name``, ``kind``, ``bytes``, ``type`` and, for handles, ``reason``.
        """
        report = self._results.bind(names, buffers, run)
        self.names.difference_update(names.get("removed", ()))
        self.names.update(names.get("added", ()))
        self._release()
        if names.get("cwd") and self.shared and Path(names["cwd"]).is_dir():
            os.chdir(names["cwd"])
        return report

    def _release(self) -> None:
        """Let go of values whose handles are gone, without waiting for the next cell."""
        handles = [self.released.popleft() for _ in range(len(self.released))]
        if handles and not self.lost:
            ask = secrets.token_hex(8)
            content = {"call": ask, "method": "release", "arguments": {"handles": handles}}
            self.link.post("call", ask=ask, session=self.id, **frames(CALL, content))

    # Between cells

    def call(
        self,
        method: str,
        arguments: dict[str, Any],
        buffers: Sequence[Any] = (),
        timeout: float | None = None,
    ) -> tuple[Any, list[Any]]:
        """Ask the session's kernel something; waits until it is idle.

        Raises
        ------
        SessionError
            When it is gone, or refuses.
        """
        ask = secrets.token_hex(8)
        content = {"call": ask, "method": method, "arguments": {"spool": self._spool, **arguments}}
        future = self.link.ask_soon(
            "call", ask=ask, session=self.id, **frames(CALL, content, buffers=buffers)
        )
        message = future.result(timeout)
        answer = content_of(message)
        if answer["status"] != "ok":
            kind = NotPicklable if answer["ename"] == "NotPicklable" else SessionError
            raise kind(answer["evalue"] or answer["ename"])
        return answer["answer"], list(message["buffers"])

    def pull_handle(self, handle: str, name: str) -> Any:
        """The value of a handle."""
        answer, buffers = self.call("pull", {"handle": handle, "name": name})
        learn(self._shell, answer["sources"])
        return self._results.open(answer["results"][0], buffers)[""]

    def hold(self, name: str) -> dict[str, Any]:
        """Have the value of a name kept for a handle, whose facts are returned."""
        facts: dict[str, Any] = self.call("hold", {"name": name})[0]
        return facts

    def pull(self, names: Sequence[str], limits: Limits) -> list[dict[str, Any]]:
        """Bind the session's values of ``names`` here."""
        answer, buffers = self.call("pull", {"names": list(names), "limit": limits.out})
        return self.receive(answer, buffers)

    def push(self, names: Sequence[str], limits: Limits) -> Parcel:
        """Bind this notebook's values of ``names`` there."""
        absent = [name for name in names if not self.inputs.visible(name)]
        if absent:
            raise UsageError(f"The notebook has no variable {absent[0]!r}.")
        parcel = self.pack(names, resend=True)
        for name, error in parcel.refused.items():
            raise type(error)(f"{name} can't travel: {error}")
        request, buffers = self.request(
            "", CellNames(), parcel, count=0, out=(), auto=False, limits=limits, secret_values={}
        )
        missing, _ = self.call("push", request, buffers)
        if missing:
            raise SessionError(f"{self.where} could not take {', '.join(names)}.", "Try again.")
        self.sent(parcel)
        return parcel

    def list_names(self) -> list[dict[str, Any]]:
        """The session's names with type, size and shape."""
        return list(self.call("names", {})[0])

    def close(self) -> None:
        """End the session and its kernel."""
        self.link.ask("close", session=self.id)


def _cwd() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # the directory was removed under the notebook
        return None


def _module_entry(file: ModuleFile) -> dict[str, Any]:
    return {"name": file.name, "relative": file.relative, "path": str(file.path), "hash": file.hash}

"""The kernel's side of the variables: bind what a cell reads, gather what it bound or changed.

As long as the notebook sends the hash that a :class:`~nbcloud.cells.ledger.Ledger` agreed on, its value did
not change, and what the session has under that name, used and perhaps changed by cells since, stays as it is.
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from nbcloud.cells.ledger import LOOK, Ledger, settled
from nbcloud.cells.payloads import Payload, TooLarge, encode
from nbcloud.errors import HandleLost, UsageError
from nbcloud.sessions.history import follow
from nbcloud.sessions.kernel import randomness
from nbcloud.sessions.kernel.checkpoint import RANDOM, freeze
from nbcloud.sessions.kernel.describe import describe
from nbcloud.sessions.kernel.modules import RemoteModules
from nbcloud.sessions.parcels import Parcels, SpooledBlobs, open_parcel
from nbcloud.sessions.sources import cell_sources, learn
from nbcloud.sessions.user_names import is_history

_GATHER_SECONDS = 0.25


class RemoteNames:
    """The user's namespace of one kernel, as seen by notebooks.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._ledger = Ledger(shell.user_ns)
        self._handles: dict[str, Any] = {}
        self._modules = RemoteModules()
        self._before: dict[str, int] = {}
        self._listed: set[str] = set()
        self._cwd: str | None = None
        self._sources_sent: set[str] = set()
        self._bound_by: dict[str, str] = {}
        self._finished: dict[str, tuple[str, dict[str, str]]] = {}
        self._rank = 0
        self._own_spool = ""

    @property
    def _namespace(self) -> dict[str, Any]:
        return self._shell.user_ns  # type: ignore[no-any-return]

    # Before a cell

    def bind(self, request: dict[str, Any], buffers: Sequence[Any]) -> list[str]:
        """Bind the inputs of a request, or none of them.

        Returns
        -------
        list of str
            Hashes of values that the notebook believed to be here and are not.
        """
        spool = self._spool(request)
        for handle in request.get("released", ()):
            self._handles.pop(handle, None)
        self._enter(request)
        missing = self._modules.refresh(request.get("modules", []), buffers, spool)
        learn(self._shell, request.get("sources", ()))
        values: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for entry in request["inputs"]:
            if self._is_here(entry):
                continue
            if entry["kind"] == "value" and entry.get("data") is None:
                missing.append(entry["hash"])
                continue
            try:
                values.append((entry, self._value(entry, buffers, spool)))
            except FileNotFoundError:
                missing.append(entry["hash"])
        if missing:
            return missing
        follow(self._shell, request["history"])
        for name in request.get("drop", ()):
            self._namespace.pop(name, None)
        self._ledger.forget(request.get("drop", ()))
        for entry, named in values:
            self._namespace.update(named)
            if entry["kind"] == "value":
                self._ledger.received(named, entry)
            else:
                self._ledger.forget(named)
        return []

    def _spool(self, request: dict[str, Any]) -> Path:
        """Where large values are; each machine of a gang that has several has its own."""
        return Path(request["spool"] or self._own_spool)

    def _is_here(self, entry: dict[str, Any]) -> bool:
        names = entry["names"]
        if self._rank and (entry["kind"] == "handle" or entry.get("data") is None):
            # What cells bound may differ from rank to rank, and the notebook knows that of the first only.
            return all(name in self._namespace for name in names)
        if entry["kind"] == "value":
            return all(
                self._ledger.agreed_hash(name) == entry["hash"] and name in self._namespace for name in names
            )
        if entry["kind"] == "module":
            return all(isinstance(self._namespace.get(name), types.ModuleType) for name in names)
        return False

    def _value(self, entry: dict[str, Any], buffers: Sequence[Any], spool: Path) -> dict[str, Any]:
        if entry["kind"] == "module":
            return dict.fromkeys(entry["names"], importlib.import_module(entry["module"]))
        if entry["kind"] == "handle":
            return dict.fromkeys(entry["names"], self._held(entry["id"], entry["names"][0]))
        return open_parcel(entry, buffers, SpooledBlobs(spool), self._namespace)

    def _held(self, handle: str, name: str) -> Any:
        try:
            return self._handles[handle]
        except KeyError:
            why = "is held by rank 0 only" if self._rank else "is gone: its session ended"
            raise HandleLost(
                f"{name} is a handle whose value {why}.", "Run the cell that made it again."
            ) from None

    def _enter(self, request: dict[str, Any]) -> None:
        """Follow the notebook's working directory and import path, where they exist here."""
        cwd = request.get("cwd")
        if cwd and cwd != self._cwd and Path(cwd).is_dir():
            os.chdir(cwd)
            self._cwd = cwd
        for entry in request.get("path", ()):
            if entry not in sys.path and Path(entry).is_dir():
                sys.path.append(entry)

    def done_before(self, key: str) -> str:
        """The run that had this code and these inputs, if what it bound is still bound; else empty."""
        run, bound = self._finished.get(key, ("", {}))
        current = all(
            self._bound_by.get(name) == by and name in self._namespace for name, by in bound.items()
        )
        return run if current else ""

    def cache_key(self, request: dict[str, Any]) -> str:
        """Code and inputs; of what only the session has, who bound it."""
        inputs = [
            (name, self._ledger.agreed_hash(name) or self._bound_by.get(name, ""))
            for name in sorted(request["uses"])
            if name in self._namespace
        ]
        return str(xxhash.xxh3_128_hexdigest(repr((request["code_hash"], inputs)).encode()))

    def remember(self, request: dict[str, Any], key: str, results: dict[str, Any]) -> None:
        """A run ended well: with the same code and inputs it need not run again."""
        bound = {
            name: self._bound_by.get(name, "") for entry in results["results"] for name in entry["names"]
        }
        self._finished[key] = (request["run"], bound)

    # After a cell

    def watch(self) -> None:
        """Remember what is bound before the cell runs, by identity, so that nothing is kept alive."""
        self._before = {name: id(value) for name, value in self._visible()}

    def _visible(self) -> Iterable[tuple[str, Any]]:
        hidden = self._shell.user_ns_hidden
        absent = object()
        return [
            (name, value)
            for name, value in self._namespace.items()
            if not is_history(name) and hidden.get(name, absent) is not value
        ]

    def settle_modules(self) -> None:
        """Local modules that a cell may have written are no news."""
        self._modules.settle()

    def nothing(self) -> dict[str, Any]:
        """The answer when gathering was interrupted."""
        return {"results": [], "added": [], "removed": [], "sources": []}

    def gather(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        """What the cell bound, changed and deleted.

        Returns
        -------
        tuple of dict and list
            The JSON part, and the buffers that its entries point into.
        """
        after = dict(self._visible())
        removed = sorted(self._before.keys() - after.keys())
        self._ledger.forget(removed)
        if self._rank:  # the notebook takes the results of the first
            request = {**request, "out": [], "auto": False}
        home = _Homecoming(self, self._spool(request))
        heavy = [package.encode() for package in request.get("heavy", ())]
        asked = set(request.get("out", ()))
        home.bring(asked, after, limit=request["out_limit"], seconds=None)
        if request.get("auto", True):
            bound = set(request["binds"]) & after.keys()
            bound |= {name for name, value in after.items() if self._before.get(name) != id(value)}
            changed = self._changed(request, after, bound)
            self._bound_by.update(dict.fromkeys(bound | changed, request["run"]))
            # What the notebook has, it would go on using as it was before: so it comes home, or says so.
            home.bring(changed - asked, after, limit=request["changed_limit"], seconds=None, heavy=heavy)
            for entry in home.results:
                large = entry["kind"] == "handle" and (entry.get("nbytes") or 0) > request["changed_limit"]
                entry["changed"] = large and not changed.isdisjoint(entry["names"])
            home.bring(
                bound - asked, after, limit=request["home_limit"], seconds=_GATHER_SECONDS, heavy=heavy
            )
        return {
            "results": home.results,
            "added": self._news(after),
            "removed": removed,
            "cwd": self._cwd_now(),
            "sources": home.sources,
        }, home.parcels.buffers

    def _news(self, after: dict[str, Any]) -> list[str]:
        """Names that the session has and the notebook was not told of, those that it sent included."""
        added = sorted(after.keys() - self._listed)
        self._listed = set(after)
        return added

    def _cwd_now(self) -> str | None:
        """Where the cell went, if it went anywhere."""
        try:
            now = str(Path.cwd())
        except OSError:
            return None
        if self._cwd is None or now == self._cwd:
            return None
        self._cwd = now
        return now

    def _changed(self, request: dict[str, Any], after: dict[str, Any], bound: set[str]) -> set[str]:
        """Inputs that the cell changed in place, with those that share objects with them."""
        changed: set[str] = set()
        for name in request.get("reads", ()):
            if name in bound or name not in self._ledger or settled(after.get(name)):
                continue
            if not self._ledger.unchanged(name, limit=LOOK):
                changed.update(self._ledger.bundle_of(name))
        return changed & after.keys()

    def hold(self, value: Any) -> dict[str, Any]:
        """Keep a value for a handle; returns the handle's facts."""
        handle = secrets.token_hex(8)
        self._handles[handle] = value
        return {"id": handle, **describe(value)}

    def cell_sources(self, files: Iterable[str]) -> list[dict[str, Any]]:
        """Texts of the cells among ``files`` that the notebook has not seen."""
        return cell_sources(self._shell, files, self._sources_sent)

    # Between cells

    def call(self, method: str, arguments: dict[str, Any], buffers: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Answer a request that is not a cell."""
        if method == "settle":
            self._rank = arguments.get("rank", 0)
            self._own_spool = arguments.get("spool", "")
            os.environ.update(arguments["environment"])
            return None, []
        if method == "names":
            return [{"name": name, **describe(value)} for name, value in self._visible()], []
        if method == "release":
            for handle in arguments["handles"]:
                self._handles.pop(handle, None)
            return None, []
        if method == "push":
            request = {**arguments, "inputs": arguments["inputs"]}
            return self.bind(request, buffers), []
        if method == "checkpoint":
            return self._checkpoint(arguments)
        if method == "restore":
            missing = self.bind(arguments, buffers)
            if not missing:
                randomness.go_on(self._namespace.pop(RANDOM))
            return missing, []
        if method == "hold":
            return {"names": [arguments["name"]], **self.hold(self._namespace[arguments["name"]])}, []
        if method == "pull":
            home = _Homecoming(self, self._spool(arguments) if "spool" in arguments else None)
            if "handle" in arguments:
                value = self._held(arguments["handle"], arguments["name"])
                home.value([""], encode({"": value}, self._namespace))
            else:
                home.bring(arguments["names"], dict(self._visible()), limit=arguments["limit"], seconds=None)
            return {"results": home.results, "sources": home.sources}, home.parcels.buffers
        raise UsageError(f"A session has no method {method!r}.")

    def _checkpoint(self, arguments: dict[str, Any]) -> tuple[Any, list[Any]]:
        """All that another kernel needs to go on in this one's place."""
        payload, lacking = freeze(
            dict(self._visible()), self._namespace, arguments["reads"], arguments["limit"]
        )
        answer: dict[str, Any] = {"entry": None, "lacking": lacking}
        parcels = Parcels(SpooledBlobs(self._spool(arguments)))
        if payload is not None:
            answer["entry"] = parcels.add(payload)
            answer |= {
                "cwd": str(Path.cwd()),
                "path": sys.path,
                "sources": cell_sources(self._shell, payload.files, set()),
            }
        return answer, parcels.buffers


class _Homecoming:
    """Names on their way to the notebook."""

    def __init__(self, names: RemoteNames, spool: Path | None) -> None:
        self._names = names
        self.parcels = Parcels(SpooledBlobs(spool) if spool else None)
        self.results: list[dict[str, Any]] = []
        self.sources: list[dict[str, Any]] = []

    def bring(
        self,
        wanted: Iterable[str],
        after: dict[str, Any],
        *,
        limit: int,
        seconds: float | None,
        heavy: Iterable[bytes] = (),
    ) -> None:
        """By value what fits ``limit`` and ``seconds`` and needs no ``heavy`` package; else as handles."""
        ledger = self._names._ledger
        values = set()
        for name in sorted(wanted):
            if name not in after:
                self.results.append({"names": [name], "kind": "missing"})
            elif isinstance(after[name], types.ModuleType) and after[name].__name__ in sys.modules:
                self.results.append({"names": [name], "kind": "module", "module": after[name].__name__})
            else:
                values.add(name)
        bundles, refused = ledger.bundles(values, limit=limit, seconds=seconds)
        for bundle in bundles:
            needed = next((package.decode() for package in heavy if package in bundle.payload.data), "")
            if needed:
                refused.update(
                    dict.fromkeys(bundle.names, TooLarge(f"It needs {needed}, not imported here yet."))
                )
                continue
            types_ = {name: describe(after[name])["type"] for name in bundle.names if name in after}
            self.value(bundle.names, bundle.payload, types_)
            ledger.sent(bundle)
        ledger.forget(refused)
        for name, error in refused.items():
            if name in after:
                entry = {"kind": "handle", **self._names.hold(after[name]), "reason": str(error)}
                self.results.append({"names": [name], **entry})

    def value(self, names: Iterable[str], payload: Payload, types_: dict[str, str] | None = None) -> None:
        """One bundle by value."""
        entry = {"names": list(names), "kind": "value", **self.parcels.add(payload), "types": types_ or {}}
        self.results.append(entry)
        self.sources += self._names.cell_sources(payload.files)

"""What cells left, bound in the notebook: as values, as modules, or as handles."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping, Sequence
from typing import Any

from nbcloud.cells.ledger import Ledger
from nbcloud.cells.silence import silence
from nbcloud.sessions.client.handles import Handle, Holder, LazyModule
from nbcloud.sessions.parcels import Blobs, open_parcel
from nbcloud.sessions.sources import learn


class Results:
    """The results of one session in one notebook.

    Parameters
    ----------
    session : Holder
    namespace : mapping
        The notebook's.
    ledger : Ledger
        What the session has.
    blobs : Blobs
        Where large values are.
    shell : object or None
        The notebook's IPython shell.
    """

    def __init__(
        self, session: Holder, namespace: MutableMapping[str, Any], ledger: Ledger, blobs: Blobs, shell: Any
    ) -> None:
        self.mirrored: set[str] = set()
        """Names that are bound here and there: what is deleted on one side is on the other."""
        self._session = session
        self._namespace = namespace
        self._ledger = ledger
        self._blobs = blobs
        self._shell = shell

    def bind(self, names: dict[str, Any], buffers: Sequence[Any], run: str = "") -> list[dict[str, Any]]:
        """Bind what a kernel gathered, and delete what it deleted.

        Parameters
        ----------
        names : dict
            The kernel's ``results``, ``removed`` and ``sources``.
        buffers : sequence of bytes
        run : str
            That of the cell.

        Returns
        -------
        list of dict
            For the record: ``name``, ``kind``, ``bytes``, ``type``; for handles, ``reason``, and whether the
            notebook had the value before and the cell ``changed`` it.
        """
        learn(self._shell, names.get("sources", ()))
        report: list[dict[str, Any]] = []
        for entry in names["results"]:
            report += self._bind({**entry, "run": run}, buffers)
        for name in names.get("removed", ()):
            if name in self.mirrored:
                self._namespace.pop(name, None)
                self.mirrored.discard(name)
        return report

    def open(self, entry: dict[str, Any], buffers: Sequence[Any]) -> dict[str, Any]:
        """The values of an entry."""
        return open_parcel(entry, buffers, self._blobs, self._namespace)

    def _bind(self, entry: dict[str, Any], buffers: Sequence[Any]) -> list[dict[str, Any]]:
        named = entry["names"]
        if entry["kind"] == "missing":
            return [{"name": name, "kind": "missing", "bytes": 0, "type": ""} for name in named]
        self.mirrored.update(named)
        if entry["kind"] == "module":
            module = sys.modules.get(entry["module"]) or LazyModule(entry["module"])
            self._namespace.update(dict.fromkeys(named, module))
            return []
        if entry["kind"] == "value":
            try:
                values = self.open(entry, buffers)
            except Exception as error:  # noqa: BLE001 - a class that is not importable here, for one
                return [self._stays(name, entry, f"it can't be revived here: {error}") for name in named]
            with silence():  # what was here before may complain of its end, which no cell asked for
                self._namespace.update(values)
                self._ledger.received(named, entry)
            facts = {"kind": "value", "bytes": entry["nbytes"]}
            return [{"name": name, **facts, "type": entry["types"].get(name, "")} for name in named]
        for name in named:
            self._namespace[name] = Handle(self._session, name, entry)
        self._ledger.forget(named)
        facts = {"kind": "handle", "bytes": entry.get("nbytes") or 0, "type": entry["type"]}
        facts |= {"reason": entry.get("reason", ""), "changed": entry.get("changed", False)}
        return [{"name": name, **facts} for name in named]

    def _stays(self, name: str, entry: dict[str, Any], reason: str) -> dict[str, Any]:
        held = self._session.hold(name)
        facts = {**held, "reason": reason, "run": entry["run"]}
        self._namespace[name] = Handle(self._session, name, facts)
        self._ledger.forget([name])
        told = {"kind": "handle", "bytes": entry["nbytes"], "type": held["type"]}
        return {"name": name, **told, "reason": reason}

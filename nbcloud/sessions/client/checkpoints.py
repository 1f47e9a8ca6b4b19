"""A session's whole namespace, kept as bytes that nobody here opens, and given to another session."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from nbcloud.cells.analysis import CellNames
from nbcloud.cells.payloads import Payload
from nbcloud.errors import SessionError
from nbcloud.sessions.client.session import Limits, Parcel, Session
from nbcloud.sessions.parcels import Parcels


@dataclass(frozen=True)
class Checkpoint:
    """What a session had.

    Attributes
    ----------
    about : dict
        Its working directory, import path, and the texts of cells in which functions were defined.
    parts : list of buffers
        The pickle, and its large buffers.
    """

    about: dict[str, Any]
    parts: list[Any]

    @classmethod
    def take(
        cls, session: Session, reads: list[str] | None, limit: int
    ) -> tuple[Self | None, dict[str, str]]:
        """Ask a session for all that it has.

        Parameters
        ----------
        session : Session
        reads : list of str, optional
            Names that the cells to come read; may be anything by default.
        limit : int
            In bytes.

        Returns
        -------
        tuple of Checkpoint or None, and dict
            None when a name is needed that can't be kept; and why each of those can't.
        """
        answer, buffers = session.call("checkpoint", {"reads": reads, "limit": limit})
        entry, lacking = answer.pop("entry"), answer.pop("lacking")
        if entry is None:
            return None, lacking
        if "blob" in entry:
            large = list(session.blobs.read(entry["blob"], entry["sizes"]))
        else:
            large = [buffers[index] for index in entry["buffers"]]
        return cls(answer, [buffers[entry["data"]], *large]), lacking

    def give(self, session: Session, imports: Iterable[str]) -> None:
        """Have a session go on with it.

        Parameters
        ----------
        session : Session
            A new one.
        imports : iterable of str
            What the cells imported that made it.

        Raises
        ------
        SessionError
            When it can't be opened there.
        """
        data, *large = self.parts
        parcel = Parcel()
        parcels = Parcels(session.blobs)
        entry = parcels.add(Payload(bytes(data), [memoryview(each) for each in large]))
        parcel.inputs, parcel.buffers = [{"names": [], "kind": "checkpoint", **entry}], parcels.buffers
        request, buffers = session.request(
            "",
            CellNames(imports=frozenset(imports)),
            parcel,
            count=0,
            out=(),
            auto=False,
            limits=Limits(0, 0),
            secret_values={},
        )
        missing, _ = session.call("restore", request | self.about, buffers)
        if missing:
            raise SessionError(f"{session.where} could not take a checkpoint.")

    def to_bytes(self) -> bytes:
        """As a file has it: a line of JSON, and the parts."""
        sizes = [memoryview(part).nbytes for part in self.parts]
        return b"".join([json.dumps({"about": self.about, "sizes": sizes}).encode(), b"\n", *self.parts])

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """What `to_bytes` gave."""
        head = content.index(b"\n")
        facts, view, start = json.loads(content[:head]), memoryview(content), head + 1
        parts = []
        for size in facts["sizes"]:
            parts.append(view[start : start + size])
            start += size
        return cls(facts["about"], parts)


def digest(content: bytes) -> str:
    """What tells a file that was changed."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()

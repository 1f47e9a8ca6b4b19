"""Names for values that stay on the cluster, and for modules that are imported here only when used."""

from __future__ import annotations

import importlib
import types
import weakref
from typing import TYPE_CHECKING, Any

from nbcloud.errors import HandleLost

if TYPE_CHECKING:
    from nbcloud.sessions.client import Session


def size_text(nbytes: int | None) -> str:
    """Bytes for people: ``"96.0 MiB"``; empty when unknown."""
    if nbytes is None:
        return ""
    size, units = float(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "B" else f"{size:,.1f} {units[0]}"


class Handle:
    """A value that stays beside its session's kernel.

    ``%%cloud`` cells use it in place, under whatever name it has in the notebook; ``get()`` brings it home.
    """

    def __init__(self, session: Session, name: str, facts: dict[str, Any]) -> None:
        self.name = name
        self.type: str = facts["type"]
        self.nbytes: int | None = facts.get("nbytes")
        self._text: str = facts.get("text", "")
        self._id: str = facts["id"]
        self._session = session
        weakref.finalize(self, session.released.append, self._id).atexit = False

    def get(self) -> Any:
        """Bring the value here.

        Raises
        ------
        HandleLost
            When its session ended.
        NotPicklable
            When it can't leave the process that it is in.
        """
        if self._session.lost:
            raise HandleLost(
                f"{self.name} is gone with its session: {self._session.lost}.",
                "Run the cell that made it again.",
            )
        return self._session.pull_handle(self._id, self.name)

    def held_by(self, session: Session) -> bool:
        """Whether the value is in ``session``."""
        return self._session is session

    @property
    def id(self) -> str:
        """What the session knows the value by."""
        return self._id

    def __repr__(self) -> str:
        facts = ", ".join(part for part in (self.type, self._text, size_text(self.nbytes)) if part)
        return f"<{self.name} stays on {self._session.where}: {facts}; {self.name}.get() brings it here>"

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        raise AttributeError(
            f"{self.name} is a {self.type} that stays on {self._session.where}. "
            f"Use it in a %%cloud cell, or bring it here: {self.name} = {self.name}.get()"
        )

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name} is a handle, which can't be pickled; {self.name}.get() is its value")


class LazyModule(types.ModuleType):
    """A module that a ``%%cloud`` cell imported: imported here at the first use."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute in {"__wrapped__", "__path__", "__file__", "__all__"} or attribute.startswith(
            "_ipython_"
        ):
            raise AttributeError(attribute)  # asked by inspection, which is not a use
        module = importlib.import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, attribute)

    def __dir__(self) -> list[str]:
        return dir(importlib.import_module(self.__name__))

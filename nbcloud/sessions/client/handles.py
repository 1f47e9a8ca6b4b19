"""Names for values that stay on the cluster, and for modules that are imported here only when used."""

from __future__ import annotations

import importlib
import types
import weakref
from collections import deque
from typing import Any, Protocol

from nbcloud.errors import HandleLost, NotPicklable
from nbcloud.wording import size_text

_UNPICKLABLE = "can't be pickled"
# Python looks for these at the class, not at the object. A handle must not even be true or false.
# fmt: off
_BINARY = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and",
    "or", "xor",
)
_OPERATIONS = (
    *_BINARY, *(f"r{name}" for name in _BINARY), "neg", "pos", "abs", "invert", "lt", "le", "gt", "ge",
    "bool", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil",
    "len", "length_hint", "iter", "next", "reversed", "contains", "getitem", "setitem", "delitem",
    "enter", "exit", "array", "array_ufunc", "array_function", "dataframe",
)
# fmt: on


class Holder(Protocol):
    """As much of a session as those need who have values in it."""

    lost: str
    released: deque[str]

    @property
    def where(self) -> str:
        """For people."""

    def pull_handle(self, handle: str, name: str) -> Any:
        """The value of a handle."""

    def hold(self, name: str) -> dict[str, Any]:
        """Have the value of a name kept for a handle, whose facts are returned."""


class Handle:
    """A value that stays beside its session's kernel.

    ``%%cloud`` cells use it in place, under whatever name it has in the notebook; ``get()`` brings it home.
    Two names for one handle are equal; any other use as the value is an error that says so.
    """

    name: str
    type: str
    nbytes: int | None
    run: str
    """The run that left it; empty where nobody knows."""
    _text: str
    _reason: str
    _id: str
    _session: Holder

    def __init__(self, session: Holder, name: str, facts: dict[str, Any]) -> None:
        vars(self).update(
            name=name,
            type=facts["type"],
            nbytes=facts.get("nbytes"),
            run=facts.get("run", ""),
            _text=facts.get("text", ""),
            _reason=facts.get("reason", ""),
            _id=facts["id"],
            _session=session,
        )
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
        self.check()
        try:
            return self._session.pull_handle(self._id, self.name)
        except NotPicklable as error:  # which begins with the path behind the name, if there is one
            raise NotPicklable(
                f"{self.name}{'' if error.message[:1] in '.[' else ' '}{error.message.lstrip()}",
                f"Use {self.name} in %%cloud cells, and bind what you need of it to a name of its own there.",
            ) from None

    def check(self) -> None:
        """Raise HandleLost when its session ended."""
        if self._session.lost:
            raise HandleLost(
                f"{self.name} is gone with its session: {self._session.lost}.",
                "Run the cell that made it again.",
            )

    @property
    def can_travel(self) -> bool:
        """Whether nothing is known that keeps the value from being brought here."""
        return _UNPICKLABLE not in self._reason

    def held_by(self, session: Holder) -> bool:
        """Whether the value is in ``session``."""
        return self._session is session

    @property
    def id(self) -> str:
        """What the session knows the value by."""
        return self._id

    def __repr__(self) -> str:
        facts = ", ".join(part for part in (self.type, self._text, size_text(self.nbytes)) if part)
        way = f"{self.name}.get() brings it here" if self.can_travel else f"it {_UNPICKLABLE}"
        return f"<{self.name} stays on {self._session.where}: {facts}; {way}>"

    def _not_here(self) -> str:
        what = f"{self.name} is a {self.type} that stays on {self._session.where}."
        if self.can_travel:
            return f"{what} Use it in a %%cloud cell, or bring it here: {self.name} = {self.name}.get()"
        return f"{what} Use it in a %%cloud cell; it {_UNPICKLABLE}, and so it can't come here."

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        raise AttributeError(self._not_here())

    def __setattr__(self, attribute: str, value: Any) -> None:
        raise AttributeError(self._not_here())

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError(self._not_here())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Handle):
            return self is other
        raise TypeError(self._not_here())

    __hash__ = object.__hash__

    def __format__(self, specification: str) -> str:
        if specification:
            raise TypeError(self._not_here())
        return repr(self)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name} is a handle, which can't be pickled; {self.name}.get() is its value")


def _refuse(handle: Handle, *_arguments: Any, **_options: Any) -> Any:
    raise TypeError(handle._not_here())


for _operation in _OPERATIONS:
    setattr(Handle, f"__{_operation}__", _refuse)


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

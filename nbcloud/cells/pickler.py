"""cloudpickle, as a notebook's values need it.

What lives in the notebook travels by value and comes to life in the *receiving* notebook's namespace. What
values share they share again: variables of closures, the memory of arrays.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

import cloudpickle

from nbcloud.cells import arrays
from nbcloud.cells.analysis import function_reads
from nbcloud.cells.silence import silence

RECEIVER: ContextVar[MutableMapping[str, Any]] = ContextVar("receiver")
"""The namespace in which functions come to life that are revived at this moment."""
_NOWHERE = "<dynamic-code>"
_ATOMS = (
    str,
    bytes,
    int,
    float,
    complex,
    tuple,
    frozenset,
    type,
    types.FunctionType,
    types.CodeType,
    types.ModuleType,
)


class Pickler(cloudpickle.Pickler):
    """Pickles values of a notebook for a namespace elsewhere.

    Parameters
    ----------
    file : file
    namespace : mapping or None
        The notebook's: functions whose globals it is take on the receiver's.
    buffer_callback : callable
        Is given each large buffer; see `pickle.Pickler`.

    Attributes
    ----------
    uses : set of str
        Names of the notebook that functions inside the value read when called.
    files : set of str
        Source files, or names of cells, of those functions.
    """

    def __init__(
        self,
        file: Any,
        namespace: Mapping[str, Any] | None,
        buffer_callback: Callable[[pickle.PickleBuffer], Any],
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._namespace = namespace
        self.uses: set[str] = set()
        self.files: set[str] = set()
        self._own_classes: list[type] = []
        self._owners: dict[int, Any] = {}
        self._shared: set[int] = set()

    def dump(self, obj: Any) -> None:
        """Pickle, and leave no trace of it in the notebook's classes."""
        if type(obj) is dict:
            self._owners, self._shared = arrays.owners(obj.values())
        try:
            with silence():
                super().dump(obj)
        finally:
            for kind in self._own_classes:
                _drop_slot_names(kind)

    def reducer_override(self, obj: Any) -> Any:
        """Pickle by value what cloudpickle and pickle would look up in ``__main__``."""
        if isinstance(obj, type) and obj in self._own_classes:
            _drop_slot_names(obj)  # it travels as well
        if self._shared and (owner := arrays.owner_of(obj)) is not obj and id(owner) in self._shared:
            return arrays.as_view(obj, owner)
        if isinstance(obj, io.TextIOWrapper):
            raise pickle.PicklingError("it is an open file")  # cloudpickle would read it to its end
        self._note_class(type(obj))
        if type(obj) is functools._lru_cache_wrapper:
            function = obj.__wrapped__
            if isinstance(function, types.FunctionType) and function.__globals__ is self._namespace:
                return _cached_anew, (function, obj.cache_parameters())
        if isinstance(obj, types.FunctionType) and obj.__code__ is _DISPATCHER:
            registry = obj.registry  # type: ignore[attr-defined]
            return _dispatching_anew, (registry[object], tuple(registry.items()))
        if isinstance(obj, type) and obj.__dict__.get("__slots__"):
            return _with_slots(super().reducer_override(obj), obj)
        if type(obj) is types.CodeType:
            make, arguments = self.dispatch_table[types.CodeType](obj)
            # From 3.1.3 on, cloudpickle leaves out where the code is from, which every traceback shows.
            return make, tuple(obj.co_filename if each == _NOWHERE else each for each in arguments)
        if type(obj) is types.CellType:
            # In two steps: a function may be in its own closure.
            return types.CellType, (), _content(obj), None, None, _fill
        return super().reducer_override(obj)

    def _note_class(self, kind: type) -> None:
        if kind.__module__ == "__main__" and "__slotnames__" not in kind.__dict__:
            self._own_classes.append(kind)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> tuple[Any, ...]:
        reduced: tuple[Any, ...] = super()._dynamic_function_reduce(func)
        if self._namespace is None or func.__globals__ is not self._namespace:
            return reduced
        self.uses |= function_reads(func.__code__)
        self.files.add(func.__code__.co_filename)
        _make, (code, *_), (state, slots), *rest = reduced
        # The names it uses travel as names of their own, not as copies inside the function; and its variables
        # as those of the function around it, which others may share.
        slots["__globals__"], slots["__closure__"] = {}, None
        return _function_of_receiver, (code, func.__closure__), (state, slots), *rest

    def parts(self) -> dict[int, Any]:
        """The mutable objects met, by identity, without the dict of names, which is the first."""
        met = (obj for index, obj in self.memo.copy().values() if index > 0)
        found = {id(obj): obj for obj in met if not isinstance(obj, _ATOMS) and _can_change(obj)}
        if pandas := sys.modules.get("pandas"):  # lists of the class, met in every frame
            for kind in (pandas.DataFrame, pandas.Series):
                found.pop(id(kind._metadata), None)
        return found | self._owners


def _can_change(obj: Any) -> bool:
    kind = type(obj)
    if kind is types.CellType:  # those of super() hold the class, and all of its instances would share it
        return not isinstance(_content(obj), type)
    if kind.__name__.lower().endswith(("dtype", "function_or_method")):  # shared by many, never changed
        return False
    return (
        isinstance(obj, list | dict | set | bytearray)
        or kind.__name__ == "ndarray"
        or kind.__dictoffset__ != 0  # not by hasattr, which would make the dict, and the next pickle another
        or bool(getattr(kind, "__slots__", ()))
    )


def _drop_slot_names(kind: type) -> None:
    """Take away what pickling an instance leaves in its class, where ``dir()`` would show it."""
    with contextlib.suppress(AttributeError):
        type.__delattr__(kind, "__slotnames__")


def _with_slots(reduced: Any, kind: type) -> Any:
    """How cloudpickle makes a class again, but with its slots from the start, as only then they are slots."""
    if not isinstance(reduced, tuple) or reduced[0] is not cloudpickle.cloudpickle._make_skeleton_class:
        return reduced
    make, (constructor, name, bases, options, *identity), *rest = reduced
    return (
        make,
        (constructor, name, bases, {**options, "__slots__": kind.__dict__["__slots__"]}, *identity),
        *rest,
    )


_DISPATCHER = vars(types.FunctionType)["__code__"].__get__(functools.singledispatch(repr))


def _dispatching_anew(function: types.FunctionType, registry: Iterable[tuple[type, Any]]) -> Any:
    """A function of ``singledispatch``, without its cache of weak references."""
    dispatching = functools.singledispatch(function)
    for kind, implementation in registry:
        dispatching.register(kind, implementation)
    return dispatching


_EMPTY = "nothing in this variable of a closure yet"


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _fill(cell: types.CellType, content: Any) -> None:
    if not (isinstance(content, str) and content == _EMPTY):
        cell.cell_contents = content


def _function_of_receiver(code: types.CodeType, closure: tuple[Any, ...] | None) -> types.FunctionType:
    # FunctionType insists on a dict: a notebook's namespace is one.
    return types.FunctionType(code, RECEIVER.get(), None, None, closure)  # type: ignore[arg-type]


def _cached_anew(function: types.FunctionType, parameters: dict[str, Any]) -> Any:
    """A function with a cache of its own: what the other side has cached stays there."""
    return functools.lru_cache(**parameters)(function)

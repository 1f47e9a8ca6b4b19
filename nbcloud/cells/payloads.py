"""Values as bytes: pickled with their large buffers kept aside, and named by a hash of their content.

Functions and classes of the notebook travel by value and come to life in the *receiving* notebook's
namespace, as if they had been defined there; the names that they use in turn are listed in
``Payload.uses``, so that the caller can send those as well.
"""

from __future__ import annotations

import io
import pickle
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from nbcloud.cells import mappings
from nbcloud.cells.pickler import RECEIVER, Pickler
from nbcloud.cells.silence import silence
from nbcloud.errors import NotPicklable, TransferError

_HASHED_AT_ONCE = 2**24


class TooLarge(TransferError):
    """A value is larger, or slower to pickle, than the caller wants to wait for."""


@dataclass
class Payload:
    """One value, ready to travel.

    Attributes
    ----------
    data : bytes
        The pickle (protocol 5) without its large buffers.
    buffers : list of memoryview
        Its buffers, flat bytes, not copied: they are the memory of the value itself.
    uses : frozenset of str
        Names of the notebook that functions inside the value read when called.
    files : frozenset of str
        Source files, or names of cells, of those functions.
    parts : dict of int to object
        The mutable objects met, by identity; two values whose parts overlap share them. Some were made for
        the pickling only, which is why they are kept alive here: their identities stay their own.
    """

    data: bytes
    buffers: list[memoryview]
    uses: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    parts: dict[int, Any] = field(default_factory=dict, repr=False)
    _hash: str = field(default="", repr=False)
    _buffers_hash: str = field(default="", repr=False)

    @property
    def sizes(self) -> list[int]:
        """Sizes of the buffers, in bytes."""
        return [buffer.nbytes for buffer in self.buffers]

    @property
    def nbytes(self) -> int:
        """Size of data and buffers together, in bytes."""
        return len(self.data) + sum(self.sizes)

    @property
    def hash(self) -> str:
        """Hash of the content (xxh3, 128 bits, hexadecimal): equal content, equal hash."""
        if not self._hash:
            self._hash = xxhash.xxh3_128_hexdigest(self.data + self.buffers_hash.encode())
        return self._hash

    @property
    def buffers_hash(self) -> str:
        """Hash of the large buffers alone, which are the same bytes on both sides; empty without any."""
        if not self._buffers_hash and self.buffers:
            self._buffers_hash = mappings.content_of(self.buffers)
        if not self._buffers_hash and self.buffers:
            digest = xxhash.xxh3_128()
            for buffer in self.buffers:
                digest.update(buffer.nbytes.to_bytes(8, "little"))
                for start in range(0, buffer.nbytes, _HASHED_AT_ONCE):
                    digest.update(buffer[start : start + _HASHED_AT_ONCE])
            self._buffers_hash = digest.hexdigest()
        return self._buffers_hash

    def came_with(self, buffers_hash: str, sizes: Sequence[int]) -> None:
        """Take over the hash of buffers that have just come from the other side, if these are they."""
        if self.sizes == list(sizes):
            self._buffers_hash = buffers_hash


class _Bounded(io.BytesIO):
    """A file that refuses to grow past a size or a moment of ``clock``."""

    def __init__(
        self, limit: int | None, seconds: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._left = limit
        self._clock = clock
        self._deadline = None if seconds is None else clock() + seconds

    def spend(self, nbytes: int) -> None:
        if self._left is not None:
            self._left -= nbytes
            if self._left < 0:
                raise TooLarge("The value is larger than the limit.")
        if self._deadline is not None and self._clock() > self._deadline:
            raise TooLarge("The value takes too long to pickle.")

    def write(self, data: Any) -> int:
        self.spend(len(data))
        return super().write(data)


def encode(
    values: Mapping[str, Any],
    namespace: Mapping[str, Any] | None = None,
    *,
    limit: int | None = None,
    seconds: float | None = None,
) -> Payload:
    """Pickle named values together: what they share, they share again at the other end.

    Parameters
    ----------
    values : mapping
        From names to values.
    namespace : mapping, optional
        The notebook's namespace: functions whose globals it is take on the receiver's.
    limit : int, optional
        Give up past this many bytes.
    seconds : float, optional
        Give up past this much time.

    Raises
    ------
    NotPicklable
        Names the part that can't travel.
    TooLarge
        Past ``limit`` or ``seconds``.
    """
    file = _Bounded(limit, seconds)
    buffers: list[memoryview] = []

    def keep_aside(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: pickled in band
            return True
        file.spend(raw.nbytes)
        buffers.append(raw)
        return False

    pickler = Pickler(file, namespace, keep_aside)
    try:
        pickler.dump(dict(values))
    except TooLarge:
        raise
    except Exception as error:
        path, reason = _culprit(values, namespace, error)
        raise NotPicklable(f"{path} can't be pickled: {reason}.", path=path, reason=reason) from error
    return Payload(
        file.getvalue(), buffers, frozenset(pickler.uses), frozenset(pickler.files), pickler.parts()
    )


def mutable_parts(
    value: Any, namespace: Mapping[str, Any] | None, *, limit: int, seconds: float
) -> dict[int, Any]:
    """The mutable objects inside a value, by identity; none when looking takes too long.

    Parameters
    ----------
    limit : int
        Bytes of pickle, large buffers not counted, after which to give up.
    seconds : float
        Time of this thread on a processor after which to give up: what is found must not depend on what else
        the machine does.
    """
    pickler = Pickler(_Bounded(limit, seconds, time.thread_time), namespace, lambda _: False)
    try:
        pickler.dump({"": value})
    except Exception:  # noqa: BLE001 - what can't be pickled, or not soon, is not looked into
        return {}
    return pickler.parts()


def decode(data: bytes, buffers: Iterable[Any], namespace: MutableMapping[str, Any]) -> dict[str, Any]:
    """The named values again; their arrays are views of ``buffers``, writable where those are.

    Only for bytes that came over an authenticated connection from the user's own side.
    """
    token = RECEIVER.set(namespace)
    builtins = namespace.get("__builtins__")
    try:
        with silence():
            values: dict[str, Any] = pickle.loads(data, buffers=buffers)
        return values
    finally:
        RECEIVER.reset(token)
        if builtins is not None:  # cloudpickle overwrites it in every namespace it revives a function in
            namespace["__builtins__"] = builtins


def _pickles(value: Any, namespace: Mapping[str, Any] | None) -> Exception | None:
    try:
        Pickler(io.BytesIO(), namespace, lambda _: False).dump(value)
    except Exception as error:  # noqa: BLE001
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items())[:1000])
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(list(value)[:1000]))
    elif isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        for name, cell in zip(names, value.__closure__ or (), strict=False):
            try:
                yield f".<closure {name}>", cell.cell_contents
            except ValueError:
                continue
        yield from ((f".<default {i}>", item) for i, item in enumerate(value.__defaults__ or ()))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    if not isinstance(value, type | types.ModuleType):
        yield from ((f".{key}", item) for key, item in getattr(value, "__dict__", {}).items())


def _culprit(
    values: Mapping[str, Any], namespace: Mapping[str, Any] | None, error: Exception
) -> tuple[str, str]:
    """The path to the innermost part that can't be pickled, and why."""
    path, value, reason = "", None, error
    for name, candidate in values.items():
        failure = _pickles(candidate, namespace)
        if failure is not None:
            path, value, reason = name, candidate, failure
            break
    seen = {id(value)}
    for _ in range(20):
        for step, part in _parts(value):
            failure = None if id(part) in seen else _pickles(part, namespace)
            if failure is not None:
                path, value, reason = path + step, part, failure
                seen.add(id(part))
                break
        else:
            break
    return path, str(reason).rstrip(".") or type(reason).__name__

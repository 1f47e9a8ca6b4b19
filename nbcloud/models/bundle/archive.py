"""The file of a bundle: a zip of one form only, so that each of its bits is either as it must be, or refused.

Members are stored, not compressed, in the order of their names, with one date and nothing beside them. What
the table of contents says therefore gives every other byte of the file's structure, and each is compared.
Python runs such a file as a program, and any unzip opens it. Runs on devices: Python 3.9.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Union

from nbcloud.errors import BundleError

MANIFEST = "manifest.json"
SUFFIX = ".nbundle"
SIGNATURE = "signature"
SMALL = 16 * 2**20
"""Bytes that the manifest may have at most, and what else is read before anything is trusted."""

_MEMBERS = 4096
_LARGEST = 2**32 - 2**24
"""Bytes of a bundle: Python before 3.13 does not run larger zips."""
_CHUNK = 2**20
_DATE = (1980 - 1980) << 9 | 1 << 5 | 1
_MODE = (stat.S_IFREG | 0o644) << 16
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")

Source = Union[bytes, Path]
"""A member's content, or the file that has it."""


# --- written ---------------------------------------------------------------------------------------------


def write(path: Path, members: Mapping[str, Source]) -> None:
    """Write a bundle: the same members give the same bytes.

    Raises
    ------
    BundleError
        When it would be too large, or a name can't be a member's.
    """
    sizes = {name: _size(source) for name, source in members.items()}
    if sum(sizes.values()) > _LARGEST:
        raise BundleError(
            f"The bundle would have {sum(sizes.values()):,} bytes, and can have {_LARGEST:,} at most.",
            "Make the model smaller first.",
        )
    entries, offset = [], 0
    with path.open("wb") as file:
        for name in sorted(members):
            _check_name(name)
            crc = 0
            for chunk in _chunks(members[name]):
                crc = zlib.crc32(chunk, crc)
            head = _local(name, crc, sizes[name])
            file.write(head)
            for chunk in _chunks(members[name]):
                file.write(chunk)
            entries.append(_entry(name, crc, sizes[name], offset))
            offset += len(head) + sizes[name]
        file.write(b"".join(entries))
        file.write(_end(len(entries), sum(map(len, entries)), offset))
        file.flush()
        os.fsync(file.fileno())


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _local(name: str, crc: int, size: int) -> bytes:
    raw = name.encode("ascii")
    return _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DATE, crc, size, size, len(raw), 0) + raw


def _entry(name: str, crc: int, size: int, offset: int) -> bytes:
    raw = name.encode("ascii")
    made = 3 << 8 | 20  # by Unix, whose modes these are
    fields = (made, 20, 0, 0, 0, _DATE, crc, size, size, len(raw), 0, 0, 0, 0, _MODE, offset)
    return _ENTRY.pack(b"PK\1\2", *fields) + raw


def _end(count: int, size: int, offset: int) -> bytes:
    return _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)


# --- read ------------------------------------------------------------------------------------------------


class Archive:
    """An open bundle whose structure is right; what its members hold is checked as it is read.

    Raises
    ------
    BundleError
        Says what of the file is not as it must be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._file: IO[bytes] = path.open("rb")
        try:
            self._members = dict(self._contents())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each member."""
        return {name: size for name, (_, size, _) in self._members.items()}

    def small(self, name: str, limit: int = SMALL) -> bytes:
        """A member that no checksum of the manifest covers; the zip's own has to do."""
        if name not in self._members:
            raise self.damaged(f"has no {name}")
        start, size, crc = self._members[name]
        if size > limit:
            raise self.damaged(f"has a {name} of {size:,} bytes, and {limit:,} is the most")
        content = self._at(start, size)
        if zlib.crc32(content) != crc:
            raise self.damaged(f"is damaged: {name} is not what it was")
        return content

    def check(self, name: str, sha256: str) -> None:
        """Compare a member with both its checksums."""
        for _ in self._checked(name, sha256):
            pass

    def read(self, name: str, sha256: str) -> bytes:
        """A member's content, which has this checksum."""
        return b"".join(self._checked(name, sha256))

    def extract(self, name: str, sha256: str, path: Path) -> None:
        """Write a member to a file that is not there yet."""
        with path.open("xb") as file:
            for chunk in self._checked(name, sha256):
                file.write(chunk)

    def digest(self) -> str:
        """SHA-256 of the whole file, in hexadecimal."""
        digest = hashlib.sha256()
        with self._reading():
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def damaged(self, what: str) -> BundleError:
        """The error that says ``what`` is wrong with this file."""
        return BundleError(f"{self.path.name} {what}.", "Fetch it again.", path=str(self.path))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BundleError(
                f"{self.path} can't be read: {error.strerror or error}.",
                "Look whether it is there, and a file.",
                path=str(self.path),
            ) from None

    def _checked(self, name: str, sha256: str) -> Iterator[bytes]:
        start, left, crc = self._members[name]
        digest, found = hashlib.sha256(), 0
        while left:
            chunk = self._at(start, min(left, _CHUNK))
            start += len(chunk)
            left -= len(chunk)
            digest.update(chunk)
            found = zlib.crc32(chunk, found)
            yield chunk
        if digest.hexdigest() != sha256 or found != crc:
            raise self.damaged(f"is damaged: {name} is not what it was")

    def _at(self, start: int, size: int) -> bytes:
        with self._reading():
            self._file.seek(start)
            content = self._file.read(size)
        if len(content) != size:
            raise self.damaged("became shorter while it was read")
        return content

    def _contents(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """For each member where it begins, its size and its CRC; all bytes between members are compared."""
        with self._reading():
            size = self._file.seek(0, os.SEEK_END)
        if size < _END.size:
            raise self.damaged("is no bundle, or is cut off")
        end = self._at(size - _END.size, _END.size)
        magic, _, _, _, count, length, start, _ = _END.unpack(end)
        if magic != b"PK\5\6":
            raise self.damaged("is no bundle, or is cut off: its end is missing")
        if start + length + _END.size != size:
            raise self.damaged("is cut off, or has something added: its table of contents is not at its end")
        if count > _MEMBERS or length > SMALL:
            raise self.damaged(f"has {count:,} members, and {_MEMBERS:,} is the most")
        if end != _end(count, length, start):
            raise self.damaged("is damaged at its end")
        table, place, offset, before = self._at(start, length), 0, 0, ""
        for _ in range(count):
            name, crc, member_size = self._entry(table, place, offset)
            if name <= before:
                raise self.damaged(
                    f"has {name} twice" if name == before else f"has {name} in the wrong place"
                )
            head = _local(name, crc, member_size)
            if offset + len(head) + member_size > start:
                raise self.damaged(f"says that {name} has {member_size:,} bytes, which are not there")
            if self._at(offset, len(head)) != head:
                raise self.damaged(f"is damaged before {name}: two places say different things of it")
            yield name, (offset + len(head), member_size, crc)
            place += _ENTRY.size + len(name)
            offset += len(head) + member_size
            before = name
        if place != length or offset != start:
            raise self.damaged("has bytes that belong to no member")

    def _entry(self, table: bytes, place: int, offset: int) -> tuple[str, int, int]:
        """Name, CRC and size in one entry of the table of contents."""
        if place + _ENTRY.size > len(table):
            raise self.damaged("has a table of contents that is cut off")
        fields = _ENTRY.unpack_from(table, place)
        method, crc, packed, size, length, mode = fields[4], fields[7], fields[8], fields[9], fields[10], 0
        mode = fields[15] >> 16
        raw = table[place + _ENTRY.size : place + _ENTRY.size + length]
        try:
            name = raw.decode("ascii")
            _check_name(name)
        except (UnicodeDecodeError, BundleError):
            raise self.damaged(f"has a member {raw!r}, a name that could lead elsewhere") from None
        if stat.S_ISLNK(mode):
            raise self.damaged(f"has a link, {name}")
        if method or packed != size:
            raise self.damaged(f"has {name} compressed, which bundles don't do")
        if table[place : place + _ENTRY.size + length] != _entry(name, crc, size, offset):
            raise self.damaged(f"has a table of contents that is damaged at {name}")
        return name, crc, size


def _check_name(name: str) -> None:
    """Refuse what is not a plain path downwards, on any system."""
    parts = PurePosixPath(name).parts
    plain = name.isascii() and name.isprintable() and not set(name) & set('\\:*?"<>|')
    inside = parts and "/".join(parts) == name and ".." not in parts and not name.startswith(("/", "~"))
    # Windows takes no dots and spaces at the end of a name, and would let two members be one.
    if not plain or not inside or any(part.endswith((".", " ")) for part in parts) or len(name) > 255:
        raise BundleError(f"{name!r} can't be the name of a member.")

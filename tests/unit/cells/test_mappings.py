"""Memory that was mapped is known as long as nobody has written to it, and not a byte longer."""

import ctypes
import gc
import sys

import numpy as np
import pytest

from nbcloud.cells import mappings
from nbcloud.cells.payloads import decode, encode
from nbcloud.sessions.spool import map_blob, write_blob

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
SIZES = [300_000, 64, 1_000_000]


@pytest.fixture
def parts(tmp_path):
    write_blob(tmp_path, "blob", [memoryview(bytes([size % 251]) * size) for size in SIZES])
    parts = map_blob(tmp_path / "blob", SIZES)
    mappings.remember(parts, "abc")
    return parts


def test_it_is_known_before_and_after_it_was_read(parts):
    assert mappings.content_of(parts) == "abc"
    assert all(sum(part) for part in parts)
    assert mappings.content_of(parts) == "abc"


@pytest.mark.parametrize(("part", "place"), [(0, 0), (0, -1), (1, 5), (2, 0), (2, 123_456), (2, -1)])
def test_one_byte_written_anywhere_makes_it_unknown(parts, part, place):
    parts[part][place] = parts[part][place]
    assert mappings.content_of(parts) == ""


def test_a_write_behind_pythons_back_is_seen(parts):
    address = ctypes.addressof(ctypes.c_char.from_buffer(parts[2]))
    ctypes.memset(address + 500_000, 1, 1)
    assert mappings.content_of(parts) == ""


def test_other_memory_is_not_known(parts, tmp_path):
    copies = [memoryview(bytearray(part)) for part in parts]
    assert mappings.content_of(copies) == ""
    assert mappings.content_of(parts[:2]) == ""
    assert mappings.content_of(parts[1:]) == ""
    assert mappings.content_of([*parts[:2], parts[2][:-1]]) == ""
    assert mappings.content_of([part.toreadonly() for part in parts]) == ""
    assert mappings.content_of([]) == ""
    again = map_blob(tmp_path / "blob", SIZES)
    assert mappings.content_of(again) == ""


def test_nothing_is_known_of_what_takes_the_place_of_a_map_that_is_gone(tmp_path):
    blobs = [memoryview(bytes([n]) * 2**20) for n in range(2)]
    for n, blob in enumerate(blobs):
        write_blob(tmp_path, f"blob{n}", [blob])
    first = map_blob(tmp_path / "blob0", [2**20])
    mappings.remember(first, "first")
    address = ctypes.addressof(ctypes.c_char.from_buffer(first[0]))
    del first
    gc.collect()
    for _ in range(100):  # the system gives the same place again
        second = map_blob(tmp_path / "blob1", [2**20])
        if ctypes.addressof(ctypes.c_char.from_buffer(second[0])) == address:
            break
    assert ctypes.addressof(ctypes.c_char.from_buffer(second[0])) == address
    assert mappings.content_of(second) == ""


def test_memory_of_no_file_is_never_remembered():
    memory = memoryview(bytearray(2**20))
    mappings.remember([memory], "abc")
    assert mappings.content_of([memory]) == ""


def test_an_array_keeps_its_hash_until_it_is_changed(tmp_path):
    payload = encode({"a": np.arange(100_000.0)})
    write_blob(tmp_path, "blob", payload.buffers)
    parts = map_blob(tmp_path / "blob", payload.sizes)
    mappings.remember(parts, payload.buffers_hash)
    value = decode(payload.data, parts, {})["a"]
    assert mappings.content_of(encode({"a": value}).buffers) == payload.buffers_hash
    assert encode({"a": value}).hash == payload.hash
    value[77] += 1
    assert mappings.content_of(encode({"a": value}).buffers) == ""
    assert encode({"a": value}).hash != payload.hash

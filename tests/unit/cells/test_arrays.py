"""Arrays that show one memory show one memory at the other end, whatever their type and layout."""

import numpy
import pytest
from numpy.lib.stride_tricks import as_strided

from nbcloud.cells.payloads import decode, encode


def travelled(values):
    payload = encode(values)
    return decode(payload.data, [bytearray(buffer) for buffer in payload.buffers], {})


def test_views_of_one_array_share_its_memory_again():
    base = numpy.arange(1000.0)
    views = {"base": base, "part": base[10:20], "step": base[::-2], "square": base[:900].reshape(30, 30).T}
    payload = encode(views)
    assert payload.nbytes < 1.5 * base.nbytes
    copies = decode(payload.data, [bytearray(buffer) for buffer in payload.buffers], {})
    for name, value in views.items():
        assert numpy.array_equal(copies[name], value), name
    copies["part"][0] = -1
    assert copies["base"][10] == copies["square"][10, 0] == -1
    copies["base"][999] = -2
    assert copies["step"][0] == -2
    again = encode(copies)
    assert again.sizes == payload.sizes


def test_a_view_alone_travels_without_what_it_does_not_show():
    assert encode({"part": numpy.arange(1000.0)[10:20]}).nbytes < 1000


def test_names_of_one_memory_are_parts_of_each_other():
    base = numpy.arange(1000.0)
    assert encode({"a": base[:10]}).parts.keys() & encode({"b": base}).parts.keys()
    assert not encode({"a": base.copy()}).parts.keys() & encode({"b": base}).parts.keys()


ARRAYS = {
    "fortran": (numpy.asfortranarray(numpy.arange(12.0).reshape(3, 4)), lambda a: a[1]),
    "dates": (numpy.array(["2020-01-01", "2021-01-01", "2022-01-01"], dtype="M8[D]"), lambda a: a[1:]),
    "fields": (numpy.zeros(5, dtype=[("x", "i4"), ("y", "f8")]), lambda a: a["y"]),
    "text": (numpy.array(["a", "bcd"]), lambda a: a[1:]),
    "other byte order": (numpy.arange(10, dtype=">i4"), lambda a: a[::2]),
    "as other type": (numpy.arange(10.0), lambda a: a.view("i8")),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_views_of_any_type_and_layout(kind):
    whole, part = ARRAYS[kind][0], ARRAYS[kind][1](ARRAYS[kind][0])
    there = travelled({"whole": whole, "part": part})
    assert numpy.array_equal(there["whole"], whole)
    assert numpy.array_equal(there["part"], part)
    assert there["part"].dtype == part.dtype
    assert numpy.shares_memory(there["whole"], there["part"])


def test_a_view_that_may_not_be_written_to_still_may_not():
    whole = numpy.arange(10.0)
    part = whole[2:]
    part.flags.writeable = False
    there = travelled({"whole": whole, "part": part})
    assert there["whole"].flags.writeable
    assert not there["part"].flags.writeable


GAPS = as_strided(numpy.arange(20.0), (5,), (16,))
OBJECTS = numpy.array([(object, 1.5), (None, 2.5)], dtype=[("x", "O"), ("y", "f8")])


@pytest.mark.parametrize("values", [(GAPS, GAPS[1:]), (OBJECTS["y"], OBJECTS["y"][1:]), (GAPS[:0], GAPS[:0])])
def test_what_can_not_go_as_a_view_goes_as_a_copy(values):
    there = travelled(dict(zip("ab", values, strict=True)))
    assert [array.tolist() for array in there.values()] == [array.tolist() for array in values]

"""Payloads in messages: small ones inside, large ones in a blob, and either way the same values."""

import numpy
import pytest

from nbcloud.cells.payloads import encode
from nbcloud.errors import TransferError
from nbcloud.sessions.parcels import Parcels, SpooledBlobs, open_parcel
from nbcloud.sessions.spool import _write_piece, chunks, layout, map_blob


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize("spooled", [True, False])
def test_values_arrive_writable(tmp_path, size, spooled):
    blobs = SpooledBlobs(tmp_path) if spooled else None
    parcels = Parcels(blobs)
    entry = parcels.add(encode({"array": numpy.arange(size)}))
    assert ("blob" in entry) == (spooled and size > 1000)
    message = [bytes(buffer) for buffer in parcels.buffers]
    first = open_parcel(entry, message, blobs, {})["array"]
    second = open_parcel(entry, message, blobs, {})["array"]
    first[:] = -1
    assert (second == numpy.arange(size)).all()


def test_several_payloads_in_one_message():
    parcels = Parcels(None)
    entries = [parcels.add(encode({"value": numpy.full(n + 1, n), "n": n})) for n in range(3)]
    for n, entry in enumerate(entries):
        values = open_parcel(entry, parcels.buffers, None, {})
        assert values["n"] == n
        assert values["value"].tolist() == [n] * (n + 1)


def test_without_room_in_the_spool_the_message_takes_it(tmp_path):
    blobs = SpooledBlobs(tmp_path / "is not there")
    with pytest.raises((TransferError, OSError)):
        blobs.write("name", [memoryview(b"x")])


def test_a_blob_that_is_gone(tmp_path):
    parcels = Parcels(SpooledBlobs(tmp_path))
    entry = parcels.add(encode({"array": numpy.zeros(100_000)}))
    (tmp_path / entry["blob"]).unlink()
    with pytest.raises(FileNotFoundError):
        open_parcel(entry, parcels.buffers, SpooledBlobs(tmp_path), {})
    with pytest.raises(FileNotFoundError):
        open_parcel(entry, parcels.buffers, None, {})


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", ".", ""])
def test_a_blobs_name_never_leads_out_of_the_spool(tmp_path, name):
    (tmp_path / "spool").mkdir()
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(TransferError, match="not the name"):
        SpooledBlobs(tmp_path / "spool").read(name, [6])


def pieces(views, writer, size=1000):
    total = layout([view.nbytes for view in views])[1]
    parts = list(chunks(views, size))
    for index, (offset, piece) in enumerate(parts):
        last = index == len(parts) - 1
        yield {"writer": writer, "offset": offset, "data": bytes(piece), "total": total, "last": last}


def test_two_writers_of_one_blob_from_afar_do_not_tear_it(tmp_path):
    array = numpy.arange(10_000)
    views = [memoryview(array).cast("B")]
    path = tmp_path / "blob"
    first, second = pieces(views, "aa"), pieces(views, "bb")
    for _ in range(40):
        _write_piece(path, next(second))
    for piece in first:
        _write_piece(path, piece)
    for piece in second:
        _write_piece(path, piece)
        assert (numpy.frombuffer(map_blob(path, [array.nbytes])[0], array.dtype) == array).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["blob"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_writers_name_never_leads_out_of_the_spool(tmp_path):
    with pytest.raises(ValueError, match="writer"):
        _write_piece(
            tmp_path / "blob", {"writer": "../x", "offset": 0, "data": b"", "total": 1, "last": False}
        )

"""A blob's bytes never change, its arrays are writable and private, and nothing is left behind."""

import mmap
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from nbcloud.errors import TransferError
from nbcloud.sessions import spool
from nbcloud.sessions.spool import Spool, chunks, is_shared, layout, map_blob, own_directory, write_blob


def views(*arrays):
    return [memoryview(array).cast("B") for array in arrays]


def test_a_blob_gives_its_buffers_again(tmp_path):
    arrays = numpy.arange(1000), numpy.zeros(0), numpy.arange(7, dtype="u1"), numpy.arange(3.0)
    write_blob(tmp_path, "blob", views(*arrays))
    sizes = [array.nbytes for array in arrays]
    for array, view in zip(arrays, map_blob(tmp_path / "blob", sizes), strict=True):
        assert (numpy.frombuffer(view, array.dtype) == array).all()
    assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o600
    assert all(offset % 64 == 0 for offset in layout(sizes)[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["blob"]


def test_an_empty_blob(tmp_path):
    write_blob(tmp_path, "blob", [memoryview(b"")])
    assert [view.nbytes for view in map_blob(tmp_path / "blob", [0])] == [0]


def test_what_a_reader_writes_stays_its_own(tmp_path):
    write_blob(tmp_path, "blob", views(numpy.zeros(10_000)))
    before = (tmp_path / "blob").read_bytes()
    (first,), (second,) = (map_blob(tmp_path / "blob", [80_000]) for _ in range(2))
    numpy.frombuffer(first)[:] = 5
    assert not numpy.frombuffer(second).any()
    assert (tmp_path / "blob").read_bytes() == before


def test_a_blob_under_its_name_is_not_written_again(tmp_path):
    write_blob(tmp_path, "blob", views(numpy.zeros(10)))
    write_blob(tmp_path, "blob", views(numpy.ones(10)))
    assert not numpy.frombuffer(map_blob(tmp_path / "blob", [80])[0]).any()


def test_a_blob_that_is_too_short_is_refused_instead_of_killing_the_reader(tmp_path):
    (tmp_path / "blob").write_bytes(b"x" * mmap.PAGESIZE)
    with pytest.raises(TransferError, match="shorter"):
        map_blob(tmp_path / "blob", [10 * mmap.PAGESIZE])


FULL = """
import resource, signal, sys
from pathlib import Path
from nbcloud.errors import TransferError
from nbcloud.sessions.spool import write_blob
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_blob(Path(sys.argv[1]), "blob", [memoryview(bytes(60_000)), memoryview(bytes(60_000))])
except TransferError as error:
    print(error)
"""


def test_no_room_is_an_error_and_leaves_nothing(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "don't fit" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_old_blobs_make_room_and_stay_readable_where_they_are_mapped(tmp_path, monkeypatch):
    for number in range(3):
        write_blob(tmp_path, f"old{number}", views(numpy.full(50_000, number)))
        past = time.time() - 1000 + number
        os.utime(tmp_path / f"old{number}", (past, past))
    (mapped,) = map_blob(tmp_path / "old0", [400_000])
    monkeypatch.setattr(spool, "_LEAST", 1_000_000)
    monkeypatch.setattr(spool, "_SHARE", 10**9)
    write_blob(tmp_path, "old1", views(numpy.full(50_000, 1)))  # asked for again
    write_blob(tmp_path, "new", views(numpy.ones(50_000)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new", "old1"]
    assert (numpy.frombuffer(mapped, int) == 0).all()


def test_blobs_on_their_way_are_never_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "_LEAST", 0)
    monkeypatch.setattr(spool, "_SHARE", 10**15)
    for number in range(5):
        write_blob(tmp_path, f"blob{number}", views(numpy.zeros(1000)))
    assert len(list(tmp_path.iterdir())) == 5


def test_writers_of_the_same_blob_at_once(tmp_path, other_process):
    code = f"""
from pathlib import Path
from nbcloud.sessions.spool import write_blob
print("ready", flush=True)
input()
write_blob(Path({str(tmp_path)!r}), "blob", [memoryview(bytes([7]) * 20_000_000)])
"""
    writers = [other_process(code) for _ in range(3)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    seen = 0
    while any(writer.poll() is None for writer in writers) or not seen:
        if (tmp_path / "blob").exists():
            seen += 1
            assert bytes(map_blob(tmp_path / "blob", [20_000_000])[0][::100_000]) == bytes([7]) * 200
    assert [entry.name for entry in tmp_path.iterdir()] == ["blob"]


def test_pieces_put_together_are_the_blob(tmp_path):
    arrays = views(numpy.arange(1000), numpy.arange(5, dtype="u1"), numpy.arange(100))
    write_blob(tmp_path, "blob", arrays)
    whole = bytearray(layout([view.nbytes for view in arrays])[1])
    for offset, piece in chunks(arrays, 999):
        whole[offset : offset + piece.nbytes] = piece
    assert bytes(whole) == (tmp_path / "blob").read_bytes()


def test_a_spool_is_private_proves_itself_and_goes():
    own = Spool()
    try:
        assert own.directory.stat().st_mode & 0o777 == 0o700
        assert is_shared(str(own.directory), own.token)
        assert not is_shared(str(own.directory), "another token")
        assert not is_shared(str(own.directory / "elsewhere"), own.token)
    finally:
        own.close()
    assert not own.directory.exists()


OWNER = """
from pathlib import Path
from nbcloud.sessions.spool import own_directory
print(own_directory(Path({!r})), flush=True)
input()
"""


def test_directories_of_dead_processes_are_removed_and_of_living_ones_kept(tmp_path, other_process):
    child = other_process(OWNER.format(str(tmp_path)))
    theirs = child.stdout.readline().strip()
    own_directory(tmp_path)
    assert Path(theirs).is_dir()
    child.kill()
    child.wait()
    own_directory(tmp_path)
    assert not Path(theirs).is_dir()


def test_a_process_that_has_no_number_here_lives_as_long_as_its_lock(tmp_path, other_process, monkeypatch):
    child = other_process(OWNER.format(str(tmp_path)))
    theirs = Path(child.stdout.readline().strip())
    monkeypatch.setattr(spool.psutil, "pid_exists", lambda _: False)  # as seen from another container
    own_directory(tmp_path)
    assert theirs.is_dir()
    child.kill()
    child.wait()
    monkeypatch.setattr(spool.psutil, "pid_exists", lambda _: True)  # its number was given to another
    own_directory(tmp_path)
    assert not theirs.is_dir()


def test_a_directory_of_an_older_nbcloud_goes_by_the_number_in_its_name(tmp_path):
    parent = own_directory(tmp_path).parent
    dead, living = parent / "999999999-00000000", parent / f"{os.getpid()}-00000000"
    dead.mkdir()
    living.mkdir()
    own_directory(tmp_path)
    assert not dead.is_dir()
    assert living.is_dir()


def test_locks_of_directories_that_went_are_let_go(tmp_path):
    before = len(spool._locks)
    for _ in range(5):
        shutil.rmtree(own_directory(tmp_path))
    assert len(spool._locks) <= before + 1


def test_a_folder_that_leads_elsewhere_is_not_used(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    (tmp_path / f"nbcloud-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(TransferError, match="belongs to another"):
        own_directory(tmp_path)
    assert list(elsewhere.iterdir()) == []
    assert elsewhere.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path):
    (tmp_path / "nbcloud-0").mkdir()
    os.chown(tmp_path / "nbcloud-0", 12345, 12345)
    with pytest.raises(TransferError, match="belongs to another"):
        own_directory(tmp_path)

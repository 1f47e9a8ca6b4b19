"""After a crash, exactly what was not sent is read from the ring."""

import random
import signal

import pytest

from nbcloud.sessions.kernel.blackbox import SIZE, BlackBox, Reader


@pytest.fixture
def path(tmp_path):
    return tmp_path / "box"


@pytest.fixture
def reader(path):
    return Reader(path)


def joined(pieces):
    """Pieces of one stream behind each other are one."""
    found = []
    for name, text in pieces:
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + text)
        else:
            found.append((name, text))
    return found


def test_the_file_is_for_this_user_only_and_starts_empty(path, reader):
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == SIZE
    assert reader.written == 0
    assert reader.unread() == []


@pytest.mark.parametrize("seed", range(4))
def test_what_was_not_sent_also_around_the_rings_end(path, reader, seed):
    chance = random.Random(seed)
    box = BlackBox(path)
    unsent, waiting = [], 0
    for _ in range(2500):
        name = chance.choice(["stdout", "stderr"])
        text = chance.choice(["a", "é", "日本", "🎉", "\n"]) * chance.randrange(1, 3000)
        box.write(name, text)
        unsent.append((name, text))
        waiting += len(text.encode()) + 5
        if waiting > SIZE // 2:
            unsent, waiting = [], 0
            reader.take(box.position)
    assert reader.written > SIZE * 1.5
    assert joined(reader.unread()) == joined(unsent)
    reader.take(reader.written)
    assert reader.unread() == []


def test_a_long_text_is_not_cut_inside_a_character(path, reader):
    box = BlackBox(path)
    box.write("stdout", "x" + "日" * 1_000_000)
    assert joined(reader.unread()) == [("stdout", "x" + "日" * 1_000_000)]


def test_what_the_ring_has_lost_is_passed_over_and_the_rest_is_there(path, reader):
    box = BlackBox(path)
    lines = [f"line {number} " + "é" * 5000 + "\n" for number in range(2000)]
    for line in lines:
        box.write("stdout", line)
    ((_, text),) = reader.unread()
    whole = "".join(lines)
    assert whole.endswith(text)
    assert text.startswith("line ")
    assert len(text.encode()) > SIZE * 0.9


def test_a_process_that_is_killed_leaves_all_that_it_wrote(path, reader, other_process):
    child = other_process(
        f"""
from pathlib import Path
from nbcloud.sessions.kernel.blackbox import BlackBox
box = BlackBox(Path({str(path)!r}))
for number in range(1000):
    box.write("stdout", f"{{number}}\\n")
print("written", flush=True)
input()
"""
    )
    assert child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert joined(reader.unread()) == [("stdout", "".join(f"{number}\n" for number in range(1000)))]


def test_the_writer_knows_when_the_reader_is_half_a_ring_behind(path, reader):
    box = BlackBox(path)
    assert not box.is_full
    while box.position <= SIZE // 2:
        assert not box.is_full
        box.write("stdout", "x" * 10_000)
    assert box.is_full
    reader.take(box.position - 1000)
    assert not box.is_full
    reader.take(0)  # what was taken once is taken
    assert not box.is_full

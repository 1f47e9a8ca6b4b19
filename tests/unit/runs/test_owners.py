"""Which process keeps a run on record."""

import os

from nbcloud.runs.owners import is_running, process_mark


def test_a_process_is_told_from_a_later_one_with_its_number(other_process):
    assert is_running(process_mark())
    assert not is_running(f"{os.getpid()}-1.00")
    assert not is_running("")
    assert not is_running("x-y")
    child = other_process(
        "from nbcloud.runs.owners import process_mark; print(process_mark(), flush=True); input()"
    )
    mark = child.stdout.readline().strip()
    assert is_running(mark)
    child.kill()
    child.wait()
    assert not is_running(mark)

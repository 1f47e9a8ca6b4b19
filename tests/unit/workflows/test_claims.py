"""One process at a time writes to a place."""

import signal
import subprocess
import sys

import pytest

from nbcloud.config import settings
from nbcloud.errors import UsageError
from nbcloud.workflows.claims import claimed

HOLD = """
import sys, time
from nbcloud.workflows.claims import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, "/there/out.ipynb"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_place_is_claimed_by_one_process_until_that_is_gone(holder):
    with (
        pytest.raises(UsageError, match=r"Another process is writing /there/out\.ipynb"),
        claimed("/there/out.ipynb"),
    ):
        pass
    with claimed("/there/other.ipynb"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed("/there/out.ipynb"), pytest.raises(UsageError), claimed("/there/out.ipynb"):
        pass


def test_what_was_claimed_leaves_nothing_behind():
    with claimed("/there/out.ipynb"):
        pass
    assert list((settings().runtime_dir / "claims").iterdir()) == []

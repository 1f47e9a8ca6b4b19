"""A notebook on another machine than the workers: nothing is shared but the connection to the scheduler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbcloud.clusters.base import ClusterInfo

_CODE = """
import hashlib, sys
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "nbcloud")
sys.path.insert(0, {modules!r})
def cell(text):
    result = shell.run_cell("%%cloud\\n" + text)
    assert result.success, text
def gang_session():
    return shell.magics_manager.registry["CloudMagics"].runner.notebook.sessions.find_gang()
shell.user_ns["sent"] = np.arange(3_000_000)
cell("assert sent.sum() == 4499998500000\\nsent[0] = 1\\nmade = sent * 2")
session = shell.magics_manager.registry["CloudMagics"].runner.notebook.sessions.find()
assert not session.shared, "the spool must be out of reach for this test to mean anything"
assert shell.user_ns["made"].get().sum() == 2 * (4499998500000 + 1)
shell.run_cell("%%cloud -o made\\npass")
assert shell.user_ns["made"].sum() == 2 * (4499998500000 + 1)
gang = shell.run_cell("%%cloud --workers 2 -o ranks\\nimport os, travelling_module\\n"
    "rank = int(os.environ['RANK'])\\nassert made.sum() == 2 * (4499998500000 + 1)\\n"
    "assert travelling_module.answer() == 42\\nranks = made + rank\\nprint('rank', rank)")
assert gang.success
assert shell.user_ns["ranks"].sum() == 2 * (4499998500000 + 1)
shell.run_line_magic("cloud", "push ranks -s " + gang_session().name)
assert shell.run_cell("%%cloud --workers 2\\nassert ranks[0] == 2").success
cell("import travelling_module\\nprint(travelling_module.answer())")
print("all arrived")
"""


def _can_hide() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    hidden = ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /dev/shm"]
    return subprocess.run(hidden, capture_output=True).returncode == 0


@pytest.mark.skipif(
    not _can_hide(), reason="hiding a directory from one process needs Linux, root and unshare"
)
def test_large_values_and_modules_reach_workers_that_share_no_file_system(
    local_cluster: ClusterInfo, tmp_path: Path
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    here = tmp_path / "only-here.py"
    here.write_text("def answer():\n    return 42\n")
    script = tmp_path / "notebook.py"
    script.write_text(_CODE.format(modules=str(modules)))
    # Its own /dev/shm hides the workers' spool from it; its own folder of modules hides the module from them.
    command = (
        f"mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {modules} && "
        f"cp {here} {modules}/travelling_module.py && exec {sys.executable} {script}"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "42\nall arrived" in done.stdout

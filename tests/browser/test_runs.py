"""Runs in the background, over a restart of the kernel, and stopped by its interrupt."""

from __future__ import annotations

import re

import pytest

from nbcloud.runs.store import Store
from tests.browser.conftest import Gate, Notebook

pytestmark = pytest.mark.browser


def test_outputs_of_a_background_run_land_in_the_cell_that_started_it(notebook: Notebook, gate: Gate) -> None:
    notebook.run("import time")
    behind = notebook.start(
        f"""%%cloud --bg --name behind
import sys, time
import matplotlib.pyplot as plt
from IPython.display import HTML, display

state = display(HTML("<i>state: begun</i>"), display_id=True)
for number in range(100):
    print("background", number)
    time.sleep(0.005)
print("background warns", file=sys.stderr)
plt.plot([1, 3, 2])
plt.show()
{gate.wait("middle")}
state.update(HTML("<i>state: over</i>"))
"the last of background"
"""
    ).wait()
    local = notebook.run("for number in range(100): print('local', number, flush=True); time.sleep(0.005)")
    other = notebook.run("%%cloud -s other\nfor number in range(100): print('other', number, flush=True)")
    behind.shows("state: begun").until(lambda cell: "background warns" in cell.text())
    behind.area.locator("img").wait_for()
    notebook.picture("middle")
    gate.open("middle")
    behind.shows("state: over").shows("the last of background")
    notebook.picture("over")
    assert local.text() == "".join(f"local {number}\n" for number in range(100))
    assert other.text() == "".join(f"other {number}\n" for number in range(100))
    assert behind.text("stdout") == "".join(f"background {number}\n" for number in range(100))
    assert behind.text("stderr") == "background warns\n"
    kinds = [output["output_type"] for output in behind.outputs if output["output_type"] != "stream"]
    assert sorted(kinds) == ["display_data", "display_data", "display_data", "execute_result"]
    behind.shows("on 'local', done")


def test_a_background_run_says_in_its_cell_how_it_failed_or_was_lost(notebook: Notebook) -> None:
    failed = notebook.start("%%cloud --bg\nprint('first')\n{}['absent']")
    failed.until(lambda cell: any(o["output_type"] == "error" for o in cell.outputs))
    assert failed.text() == "first\n"
    failed.shows("KeyError: 'absent'")
    crashed = notebook.start(
        "%%cloud --bg -s doomed\nimport os\nprint('last words', flush=True)\nos._exit(3)"
    )
    crashed.shows("its kernel ended with exit code 3")
    assert crashed.text("stdout") == "last words\n"
    notebook.picture("lost")


def test_a_run_outlives_a_restart_of_the_kernel_and_is_shown_from_its_first_line_on(
    notebook: Notebook, gate: Gate
) -> None:
    expected = [f"line {number}\n" for number in range(900)]
    before = notebook.start(
        f"""%%cloud --name long
import matplotlib.pyplot as plt
from tqdm.notebook import trange

for number in range(300): print("line", number)
plt.plot([1, 3, 2])
plt.show()
{gate.wait("restarted")}
for number in range(300, 600): print("line", number)
{gate.wait("attached")}
for number in trange(600, 900, desc="live"): print("line", number)
"the end"
"""
    )
    before.until(lambda cell: "line 299\n" in cell.text())
    notebook.restart_kernel()
    gate.open("restarted")
    notebook.run("%load_ext nbcloud")
    glance = notebook.start("%cloud attach").until(lambda cell: "line 599\n" in cell.text())
    notebook.command("notebook:interrupt-kernel")
    assert "No longer watching run" in glance.wait().text("stderr")
    after = notebook.start("%cloud attach")
    after.until(lambda cell: "line 599\n" in cell.text())
    assert not after.done
    assert after.text() == "".join(expected[:600])
    gate.open("attached")
    after.wait().shows("300/300")
    notebook.picture("attached")
    assert after.text() == "".join(expected)
    assert [o["output_type"] for o in after.outputs if "image/png" in o.get("data", {})] == ["display_data"]
    assert after.outputs[-1]["data"]["text/plain"] == "'the end'"
    notebook.run("%%cloud\nprint('here')\nassert number == 899")
    with Store() as store:
        run = next(run for run in store.search("long") if run.notebook.endswith(notebook.path.name))
        assert run.state == "done"
        assert store.text(run.id).startswith("".join(expected[:300]))
        assert re.findall(r"^line \d+\n", store.text(run.id), re.M) == expected


def test_the_interrupt_button_interrupts_the_remote_cell(notebook: Notebook) -> None:
    cell = notebook.start(
        """%%cloud
import time

def train():
    kept.append(1)
    while True:
        time.sleep(0.01)

kept = []
print("started")
train()
"""
    ).shows("started")
    notebook.command("notebook:interrupt-kernel")
    cell.wait()
    notebook.picture("interrupted")
    error = cell.outputs[-1]
    assert (error["output_type"], error["ename"]) == ("error", "KeyboardInterrupt")
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))
    assert "time.sleep(0.01)" in traceback
    assert "train()" in traceback
    assert "nbcloud" not in traceback
    assert notebook.run("%%cloud\nprint(kept)").text() == "[1]\n"

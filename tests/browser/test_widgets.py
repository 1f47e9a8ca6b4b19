"""Widgets that live in a session: shown in the page, and moved from there."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Gate, Notebook

pytestmark = pytest.mark.browser

PANEL = """%%cloud
import os
import ipywidgets as widgets

slider = widgets.IntSlider(value=3, max=10, description="depth")
button = widgets.Button(description="Count")
label = widgets.Label("not moved yet")
log = widgets.Output()
clicks = 0

def clicked(_):
    global clicks
    clicks += 1
    with log:
        print(f"click {clicks} at depth {slider.value} in process {os.getpid()}")

button.on_click(clicked)
slider.observe(lambda change: setattr(label, "value", f"moved to {change.new}"), "value")
widgets.VBox([slider, button, label, log])
"""


def test_a_click_runs_the_remote_callback_and_a_slider_sets_the_remote_value(notebook: Notebook) -> None:
    panel = notebook.run(PANEL).shows("not moved yet")
    there = notebook.run("%%cloud\nprint(os.getpid())").text().strip()
    here = notebook.run("import os; print(os.getpid())").text().strip()
    assert there != here

    panel.area.get_by_role("button", name="Count").click()
    panel.shows(f"click 1 at depth 3 in process {there}")

    panel.area.locator(".noUi-handle").focus()
    for _ in range(4):
        notebook.page.keyboard.press("ArrowRight")
    panel.shows("moved to 7")
    panel.area.get_by_role("button", name="Count").click()
    panel.shows(f"click 2 at depth 7 in process {there}")
    notebook.picture("panel")
    assert notebook.run("%%cloud\nprint(slider.value, clicks)").text() == "7 2\n"

    notebook.run("%%cloud\nslider.value = 1")
    panel.shows("moved to 1")
    panel.area.get_by_text("1", exact=True).wait_for()


def test_a_slider_moved_while_a_cell_runs_is_heard_when_it_has_ended(notebook: Notebook, gate: Gate) -> None:
    panel = notebook.run(PANEL).shows("not moved yet")
    busy = notebook.start(f"%%cloud\n{gate.wait('open')}\nprint('over')")
    panel.area.locator(".noUi-handle").focus()
    notebook.page.keyboard.press("ArrowRight")
    panel.area.get_by_text("4", exact=True).wait_for()
    assert not busy.done
    gate.open("open")
    assert busy.wait().text() == "over\n"
    panel.shows("moved to 4")


def test_interact_calls_the_remote_function(notebook: Notebook) -> None:
    cell = notebook.run(
        """%%cloud
from ipywidgets import interact

print("above")

@interact(x=(0, 10))
def square(x=2):
    print(f"{x} squared is {x * x}")

print("below")
"""
    )
    cell.shows("2 squared is 4")
    cell.area.locator(".noUi-handle").focus()
    notebook.page.keyboard.press("ArrowRight")
    cell.shows("3 squared is 9")
    notebook.picture("interact")
    assert cell.area.get_by_text("2 squared is 4").count() == 0
    assert cell.text() == "above\nbelow\n"


def test_what_is_inside_an_output_widget_stays_inside(notebook: Notebook) -> None:
    cell = notebook.run(
        """%%cloud
import sys
from IPython.display import HTML, display
import ipywidgets as widgets

out = widgets.Output(layout={"border": "1px solid green"})
display(out)
print("before")
with out:
    print("first inside")
    display(HTML("<b>bold inside</b>"))
print("after")
print("to stderr", file=sys.stderr)
with out:
    out.clear_output()
    print("second inside")
    1 / 0
print("and on")
"""
    )
    inside = cell.area.locator(".widget-output")
    inside.get_by_text("second inside", exact=True).wait_for()
    inside.get_by_text("ZeroDivisionError").first.wait_for()
    notebook.picture("output")
    assert inside.get_by_text("first inside", exact=True).count() == 0
    assert cell.text("stdout") == "before\nafter\nand on\n"
    assert cell.text("stderr") == "to stderr\n"


def test_a_progress_bar_of_tqdm_reaches_its_end(notebook: Notebook) -> None:
    cell = notebook.run(
        """%%cloud
import time
from tqdm.notebook import trange

for i in trange(60, desc="epochs"):
    time.sleep(0.01)
print("trained")
"""
    )
    cell.shows("60/60").shows("epochs: 100%")
    notebook.picture("tqdm")
    bar = cell.area.locator(".progress-bar")
    assert bar.evaluate("bar => bar.style.width") == "100%"
    assert cell.text() == "trained\n"

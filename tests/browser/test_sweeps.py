"""A cell that is swept: its table lives in the page while its members run, and is saved with the notebook."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Gate, Notebook

pytestmark = pytest.mark.browser


def test_the_table_of_a_swept_cell_lives_below_it_and_is_saved(notebook: Notebook, gate: Gate) -> None:
    notebook.run("import nbcloud\nscale = 10")
    swept = notebook.start(
        f"""%%cloud --sweep rate=0.1,0.01,0.001 --sweep name=a,b -o loss --name tune
loss = scale * rate
nbcloud.log_metric("loss", loss)
if rate == 0.01:
    raise ValueError(f"{{name}} is not stable")
{gate.wait("seen")}
"""
    )
    swept.shows("loss").shows("ValueError: a is not stable").shows("running")
    notebook.picture("running")
    gate.open("seen")
    swept.wait().shows("6 members: 4 done, 2 failed")
    notebook.picture("over")
    assert swept.area.locator("table").count() == 1, "it is shown once"
    rows = swept.area.locator("tbody tr")
    assert rows.count() == 6
    assert "0.001" in rows.nth(4).inner_text()
    assert notebook.run("print(loss)").text() == "[1.0, 1.0, 0.1, 0.1, 0.01, 0.01]\n"
    notebook.run("_.frame()").shows("rate")
    notebook.save()
    notebook.reload()
    assert notebook.page.locator(".jp-Cell-outputArea table").first.locator("tbody tr").count() == 6
    notebook.picture("reloaded")


def test_the_interrupt_button_stops_all_members(notebook: Notebook) -> None:
    notebook.run("import time")
    swept = notebook.start("%%cloud --sweep n=0:4\nprint(n)\nwhile True:\n    time.sleep(0.01)")
    swept.shows("running")
    notebook.command("notebook:interrupt-kernel")
    swept.wait().shows("was stopped")
    swept.shows("cancelled")
    notebook.picture("stopped")
    assert notebook.run("%%cloud\nprint('next')").text() == "next\n"

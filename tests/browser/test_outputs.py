"""What cells show: every kind of output, a flood of them, and the saved notebook."""

from __future__ import annotations

import time

import pytest

from nbcloud.runs.store import Store
from tests.browser.conftest import Notebook

pytestmark = pytest.mark.browser

EVERY_KIND = """%%cloud
import sys, time
import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown, clear_output, display

print("plain")
print("warned", file=sys.stderr)
print("plain again")
display(HTML("<b id='bold'>bold</b>"), Markdown("# Heading"))
handle = display(HTML("<u>first</u>"), display_id=True)
plt.plot([1, 3, 2])
plt.title("loss")
plt.show()
handle.update(HTML("<u>second</u>"))
{"answer": 42}
"""


def test_every_kind_of_output_is_shown_and_saved(notebook: Notebook) -> None:
    cell = notebook.run(EVERY_KIND).shows("second")
    assert cell.area.locator("b#bold").is_visible()
    assert cell.area.locator("h1", has_text="Heading").is_visible()
    assert cell.area.locator("img").evaluate("image => image.naturalWidth") > 100
    assert cell.area.get_by_text("first", exact=True).count() == 0
    frames = notebook.run(
        "%%cloud\nfrom IPython.display import clear_output\nfor frame in range(50):\n"
        "    clear_output(wait=True)\n    print('frame', frame)\n    time.sleep(0.005)".replace("\\\n", "\n")
    )
    assert frames.text() == "frame 49\n".replace("\\\n", "\n")
    shown = [(o["output_type"], o.get("name")) for o in cell.outputs]
    assert shown == [
        ("stream", "stdout"),
        ("stream", "stderr"),
        ("stream", "stdout"),
        *[("display_data", None)] * 4,
        ("execute_result", None),
    ]
    notebook.picture("shown")
    saved = notebook.save()
    assert [output.output_type for output in saved.cells[cell.index].outputs] == [kind for kind, _ in shown]
    notebook.reload()
    page = notebook.page
    page.get_by_text("second", exact=True).wait_for()
    assert page.locator("b#bold").is_visible()
    assert page.locator(".jp-OutputArea img").evaluate("image => image.naturalWidth") > 100
    notebook.picture("reloaded")


def test_widgets_of_the_session_are_shown_again_after_the_page_was_loaded_anew(notebook: Notebook) -> None:
    notebook.run("import ipywidgets\nmine = ipywidgets.Label('made here')\nmine")
    notebook.run(
        "%%cloud\nimport ipywidgets as widgets\nlabel = widgets.Label('made there')\n"
        "button = widgets.Button(description='Change')\n"
        "button.on_click(lambda _: setattr(label, 'value', 'changed there'))\nwidgets.VBox([label, button])"
    ).shows("made there")
    notebook.save()
    notebook.reload()
    page = notebook.page
    page.get_by_text("made there", exact=True).wait_for()
    page.get_by_text("made here", exact=True).wait_for()
    page.get_by_role("button", name="Change").click()
    page.get_by_text("changed there", exact=True).wait_for()
    notebook.picture("reloaded")


def test_a_million_lines_leave_the_page_responsive_and_are_all_on_record(notebook: Notebook) -> None:
    lines = 10**6
    button = notebook.page.locator(".jp-NotebookPanel-toolbar [data-jp-item-name='interrupt'] jp-button")
    cell = notebook.start(f"%%cloud --name flood\nfor number in range({lines}): print(number)")
    # How long the page takes for as much text as a cell may get, on this machine at this moment.
    usual = notebook.page.evaluate(
        """() => {
            const began = performance.now();
            const text = document.body.appendChild(document.createElement('pre'));
            for (let line = 0; line < 40000; line++) text.append(line + '\\n');
            text.getBoundingClientRect();
            text.remove();
            return (performance.now() - began) / 1000;
        }"""
    )
    slowest = 0.0
    while not cell.done:
        began = time.monotonic()
        button.hover()
        notebook.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        slowest = max(slowest, time.monotonic() - began)
        notebook.page.wait_for_timeout(100)
    assert slowest < max(2, 5 * usual)
    text = cell.text()
    assert text.startswith("".join(f"{number}\n" for number in range(1000)))
    assert text.endswith("".join(f"{number}\n" for number in range(lines - 20, lines)))
    assert len(text) < 2**20
    said = next(o["data"]["text/plain"] for o in cell.outputs if o["output_type"] == "display_data")
    assert f"{lines - text.count(chr(10)) + 20:,} lines more" in said
    cell.area.locator(".jp-RenderedHTMLCommon", has_text="lines more").scroll_into_view_if_needed()
    notebook.picture("flood")
    with Store() as store:
        run = store.search("flood", limit=1)[0]
        assert store.text(run.id) == "".join(f"{number}\n" for number in range(lines))


def test_a_flood_in_the_background_is_bounded_too(notebook: Notebook) -> None:
    cell = notebook.start("%%cloud --bg\nfor number in range(100_000): print(number)\n'over'")
    cell.until(lambda cell: cell.text().endswith("99999\n"))
    assert cell.text().startswith("0\n1\n2\n")
    assert len(cell.text()) < 2**20
    shown = [o["data"]["text/plain"] for o in cell.outputs if "data" in o]
    assert any("lines more" in text for text in shown)
    assert "'over'" in shown

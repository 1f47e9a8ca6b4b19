"""Tab, pressed in a cell."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser

Notebook = Any


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("%%cloud --ti", "%%cloud --timeout"),
        ("%%cloud --bg --dr", "%%cloud --bg --dry-run"),
        ("%cloud at", "%cloud attach"),
        ("%cloud up --idle", "%cloud up --idle-timeout"),
    ],
)
def test_tab_completes_the_only_flag_or_command_that_fits(
    notebook: Notebook, typed: str, completed: str
) -> None:
    editor = notebook.type(typed)
    notebook.page.keyboard.press("Tab")
    editor.get_by_text(completed).wait_for()


def test_tab_lists_what_fits(notebook: Notebook) -> None:
    notebook.type("%%cloud --t")
    notebook.page.keyboard.press("Tab")
    offered = notebook.page.locator(".jp-Completer .jp-Completer-item")
    offered.first.wait_for()
    notebook.picture("flags")
    assert offered.all_inner_texts() == []


def test_names_of_the_session_complete(notebook: Notebook) -> None:
    notebook.run(
        "%%cloud\nclass Refused:\n    def __reduce__(self): raise TypeError\nremote_only = Refused()"
    )
    editor = notebook.type("%%cloud -o remote_o")
    notebook.page.keyboard.press("Tab")
    editor.get_by_text("%%cloud -o remote_only").wait_for()

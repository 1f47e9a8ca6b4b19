"""Tab, pressed in a cell."""

from __future__ import annotations

import pytest

from tests.browser.conftest import Notebook

pytestmark = pytest.mark.browser

ONLY = {
    "%%cloud --ti": "%%cloud --timeout",
    "%%cloud --bg --dr": "%%cloud --bg --dry-run",
    "%%cloud -o remote_o": "%%cloud -o remote_only",
    "%cloud at": "%cloud attach",
    "%cloud up --idle": "%cloud up --idle-timeout",
}


def test_tab_completes_flags_commands_and_names(notebook: Notebook) -> None:
    notebook.run("%%cloud\nremote_only = lambda: (yield)\nremote_only = remote_only()")
    for typed, completed in ONLY.items():
        editor = notebook.type(typed)
        notebook.tab(lambda editor=editor, completed=completed: editor.inner_text() == completed)


def test_tab_lists_what_fits_and_nothing_else(notebook: Notebook) -> None:
    notebook.type("%%cloud --t")
    offered = notebook.page.locator(".jp-Completer .jp-Completer-match")
    notebook.tab(lambda: offered.all_inner_texts() == ["--tag", "--timeout"])
    notebook.picture("flags")
    notebook.page.keyboard.press("Escape")
    notebook.type("%cloud ")
    commands = {"attach", "cancel", "down", "logs", "runs", "status", "up"}
    notebook.tab(lambda: commands <= set(offered.all_inner_texts()))
    notebook.picture("commands")
    assert "and" not in offered.all_inner_texts()

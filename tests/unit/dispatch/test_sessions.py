"""The sessions of a notebook, before there are any."""

from nbcloud.dispatch.notebook import Notebook


def test_nothing_is_started_by_looking(shell):
    notebook = Notebook(shell.user_ns, shell)
    assert notebook.sessions.find() is None
    assert notebook.sessions.find("other") is None
    assert notebook.sessions.reopen() is None
    assert notebook.sessions.alive() == []
    assert notebook.told() == []
    notebook.close()

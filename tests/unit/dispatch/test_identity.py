"""Which notebook this is."""

import os

import pytest

from nbcloud.dispatch.identity import identify


def test_a_notebook_is_the_same_after_a_restart_and_not_its_neighbour(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/A b.ipynb")
    one = identify({})
    assert one == identify({})
    assert one.lasting
    assert one.session.startswith("A-b-")
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/you/A b.ipynb")
    assert identify({}).session != one.session


def test_an_editor_that_names_the_notebook_otherwise(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert identify({"__vsc_ipynb_file__": "/x/y.ipynb"}).session.startswith("y-")
    alone = identify({})
    assert alone.session == f"ipython-{os.getpid()}"
    assert not alone.lasting


@pytest.mark.parametrize("path", ["/x/.ipynb", "/x/日本.ipynb", "/x/" + "a" * 300 + ".ipynb", "/x/..ipynb"])
def test_any_path_makes_a_name_that_a_session_may_have(monkeypatch, path):
    from nbcloud.commands.cell import cell_options

    monkeypatch.setenv("JPY_SESSION_NAME", path)
    name = identify({}).session
    assert cell_options(f"-s {name}").session == name

"""In, _i and %history of a session are those of its notebook, whatever ran where."""

from types import SimpleNamespace

import pytest

from nbcloud.sessions.history import ToldInputs, follow


class Notebook:
    """A notebook's shell, as far as its history goes: IPython stores a cell before it runs."""

    def __init__(self):
        self.history_manager = SimpleNamespace(input_hist_raw=[""], input_hist_parsed=[""])

    def begin(self, *cells):
        for cell in cells:
            self.history_manager.input_hist_raw.append(cell)
            self.history_manager.input_hist_parsed.append(f"parsed {cell}")


def told(start, *cells):
    return {"start": start, "cells": [(cell, f"parsed {cell}") for cell in cells]}


def test_a_session_is_told_of_what_ran_before_it():
    notebook = Notebook()
    inputs = ToldInputs(notebook)
    notebook.begin("a", "b", "%%cloud 1")
    news = inputs.news()
    assert news["start"] == 0
    assert news["cells"] == [("", ""), ("a", "parsed a"), ("b", "parsed b")]


def test_only_what_is_new_is_told_and_never_the_cell_itself():
    notebook = Notebook()
    inputs = ToldInputs(notebook)
    notebook.begin("%%cloud 1")
    inputs.news()
    notebook.begin("%%cloud 2")
    assert inputs.news() == told(2)
    notebook.begin("a", "b", "%%cloud 3")
    assert inputs.news() == told(3, "a", "b")


def test_a_second_session_is_told_all():
    notebook = Notebook()
    notebook.begin("a", "%%cloud -s one")
    ToldInputs(notebook).news()
    notebook.begin("%%cloud -s two")
    assert [typed for typed, _ in ToldInputs(notebook).news()["cells"]] == ["", "a", "%%cloud -s one"]


def test_a_history_that_was_cut_is_told_from_its_new_end():
    notebook = Notebook()
    inputs = ToldInputs(notebook)
    notebook.begin("a", "b", "%%cloud 1")
    inputs.news()
    del notebook.history_manager.input_hist_raw[1:], notebook.history_manager.input_hist_parsed[1:]  # %reset
    notebook.begin("%%cloud 2")
    assert inputs.news() == told(1)


@pytest.mark.parametrize("shell", [None, SimpleNamespace(history_manager=None)])
def test_without_a_history_there_is_no_news(shell):
    assert ToldInputs(shell).news() == {}


def test_a_session_follows(shell):
    follow(shell, {"start": 0, "cells": [("", ""), ("!ls", "get_ipython().system('ls')")]})
    follow(shell, told(2, "b"))
    assert shell.history_manager.input_hist_raw == ["", "!ls", "b"]
    assert shell.history_manager.input_hist_parsed == ["", "get_ipython().system('ls')", "parsed b"]
    assert shell.user_ns["In"] == shell.history_manager.input_hist_parsed


def test_the_cells_of_a_kernel_before_are_forgotten(shell):
    follow(shell, told(0, "", "old 1", "old 2", "old 3"))
    follow(shell, told(0, "", "new 1"))
    assert shell.history_manager.input_hist_raw == ["", "new 1"]


def test_cells_that_nobody_can_tell_are_empty(shell):
    follow(shell, told(3, "c"))
    assert shell.history_manager.input_hist_raw == ["", "", "", "c"]


def test_no_news_change_nothing(shell):
    follow(shell, told(0, "", "a"))
    follow(shell, {})
    assert shell.history_manager.input_hist_raw == ["", "a"]
    follow(SimpleNamespace(history_manager=None), told(0, "a"))

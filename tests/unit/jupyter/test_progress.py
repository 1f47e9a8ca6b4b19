"""Something that takes a while shows its phases, and leaves nothing but its answer."""

import pytest
from IPython.utils.capture import capture_output

from nbcloud.commands.answers import Answer
from nbcloud.jupyter import progress
from nbcloud.jupyter.progress import Phases


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0)


def texts(captured):
    return [output.data["text/plain"] for output in captured.outputs]


def test_what_is_quick_shows_no_phase(shell):
    answer = Answer("Done.")
    with capture_output() as captured, Phases(shell, alone=False) as phases:
        phases.tell("beginning")
        assert phases.answer(answer) is answer
    assert captured.outputs == []


@pytest.mark.usefixtures("slow")
def test_the_answer_takes_the_place_of_the_phases(shell):
    with capture_output() as captured, Phases(shell, alone=False) as phases:
        phases.tell("beginning")
        phases.tell("ending")
        phases.tell("ending")
        returned = phases.answer(Answer("Done.", data=[1]))
    assert texts(captured) == ["nbcloud: beginning …", "nbcloud: ending …", "Done."]
    first, *updates = captured.outputs
    assert not first.update
    assert all(output.update and output.transient == first.transient for output in updates)
    assert (str(returned), returned.data) == ("Done.", [1])


@pytest.mark.usefixtures("slow")
def test_an_answer_in_its_place_is_shown_once_by_its_cell_and_again_by_others(shell):
    with capture_output(), Phases(shell, alone=False) as phases:
        phases.tell("beginning")
        returned = phases.answer(Answer("Done."))
    assert shell.display_formatter.format(returned) == ({}, {})
    shell.execution_count += 1
    assert shell.display_formatter.format(returned)[0] == {"text/plain": "Done."}


@pytest.mark.usefixtures("slow")
def test_without_an_answer_it_tells_how_far_it_came(shell):
    with capture_output() as captured, Phases(shell, alone=False) as phases:
        phases.tell("beginning")
    assert texts(captured) == ["nbcloud: beginning …", "nbcloud: beginning"]

"""What the notebook shows of a run is what the run said, as long as a browser survives it."""

import json
import random

import pytest
from IPython.utils.capture import capture_output

from nbcloud.jupyter.comms import CommRelay
from nbcloud.jupyter.output import CellError, CellOutput, cell_error, collapse
from nbcloud.runs.outputs import compose


def message(kind, **content):
    return {"msg_type": kind, "content": content, "metadata": {}}


def stream(text, name="stdout"):
    return message("stream", name=name, text=text)


def display(text, display_id=None, kind="display_data"):
    transient = {"display_id": display_id} if display_id else {}
    return message(kind, data={"text/plain": text}, metadata={}, transient=transient)


def random_messages(chance):
    found = []
    for number in range(chance.randrange(1, 25)):
        display_id = chance.choice(["a", "b", None])
        found.append(
            chance.choice(
                [
                    stream(f"{number}\n", chance.choice(["stdout", "stderr"])),
                    display(f"d{number}", display_id),
                    display(f"u{number}", chance.choice("ab"), "update_display_data"),
                    message(
                        "execute_result", data={"text/plain": f"r{number}"}, metadata={}, execution_count=1
                    ),
                    message("clear_output", wait=chance.random() < 0.6),
                    message("error", ename="E", evalue=str(number), traceback=[f"t{number}"]),
                    message("comm_msg", comm_id="c", data={}),
                ]
            )
        )
    return found


def composed(messages):
    return compose([(m["msg_type"], m["content"], {}) for m in messages])


@pytest.mark.parametrize("seed", range(50))
def test_collapsing_never_hides_what_a_reader_would_see_at_the_end(seed):
    chance = random.Random(seed)
    for _ in range(40):
        messages = random_messages(chance)
        assert composed(collapse(messages)) == composed(messages), json.dumps(messages, indent=1)
        # Nor when what was said comes in several batches.
        cut = chance.randrange(len(messages) + 1)
        assert composed(collapse(messages[:cut]) + collapse(messages[cut:])) == composed(messages)


def test_a_clear_that_waits_hides_nothing_until_something_comes():
    figure = display("figure")
    assert collapse([figure, message("clear_output", wait=True)])[0] is figure
    assert figure not in collapse([figure, message("clear_output", wait=True), display("next")])
    assert figure not in collapse([figure, message("clear_output", wait=False)])


def test_overwritten_updates_are_not_shown():
    updates = [display(str(n), "bar", "update_display_data") for n in range(1000)]
    assert collapse([display("0", "bar"), *updates]) == [display("0", "bar"), updates[-1]]


def shown(shell, messages, run="r1"):
    with capture_output() as captured:
        output = CellOutput(shell, CommRelay(shell), None, run)
        for each in messages:
            output.publish([each])
        output.close()
    return captured


def test_streams_displays_and_results_are_shown(shell):
    result = message("execute_result", data={"text/plain": "42"}, metadata={}, execution_count=1)
    captured = shown(shell, [stream("out\n"), stream("err\n", "stderr"), display("figure", "id"), result])
    assert captured.stderr == "err\n"
    assert captured.stdout.startswith("out\n")
    assert [output.data["text/plain"] for output in captured.outputs][:1] == ["figure"]


def test_a_flood_is_cut_at_the_limit_and_its_end_is_shown(shell, monkeypatch):
    monkeypatch.setenv("NBCLOUD_SHOWN_LIMIT", "10000")
    lines = [f"line {number:06}\n" for number in range(100_000)]
    batches = ["".join(lines[start : start + 777]) for start in range(0, len(lines), 777)]
    captured = shown(shell, map(stream, batches))
    text = captured.stdout
    assert text.startswith("line 000000\n")
    assert text.endswith("".join(lines[-20:]))
    assert len(text) < 10_000 + 20 * 12 + 1
    shown_lines = text.splitlines(keepends=True)[:-20]
    assert shown_lines == lines[: len(shown_lines)]
    said = captured.outputs[-1].data["text/plain"]
    assert f"{100_000 - len(shown_lines):,} lines more" in said
    assert "nbcloud logs r1" in said


def test_a_progress_bar_is_no_flood(shell, monkeypatch):
    monkeypatch.setenv("NBCLOUD_SHOWN_LIMIT", "10000")
    bar = [stream(f"\r{number:5}/20000 {'#' * 50}") for number in range(2000)]
    captured = shown(shell, [*bar, stream("\ndone\n")])
    assert captured.stdout.endswith("done\n")
    assert not captured.outputs


def test_an_error_is_shown_as_the_kernel_showed_it():
    error = cell_error("KeyError", "'x'", ["Traceback", "KeyError: 'x'"])
    assert isinstance(error, CellError)
    assert type(error).__name__ == "KeyError"
    assert str(error) == "'x'"
    assert error._render_traceback_() == ["Traceback", "KeyError: 'x'"]

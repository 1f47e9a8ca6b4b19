import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nbcloud.runs.outputs import compose, output_text, outputs_text


def valid(outputs):
    cell = new_code_cell()
    cell["outputs"] = nbformat.from_dict(outputs)
    notebook = new_notebook(cells=[cell])
    nbformat.validate(notebook)
    return outputs


def composed(*messages):
    return valid(compose((msg_type, content, {}) for msg_type, content in messages))


def stream(text, name="stdout"):
    return "stream", {"name": name, "text": text}


def display(text, display_id=None, msg_type="display_data", **more):
    transient = {} if display_id is None else {"transient": {"display_id": display_id}}
    return msg_type, {"data": {"text/plain": text}, "metadata": {}, **transient, **more}


def update(text, display_id):
    return display(text, display_id, "update_display_data")


def clear(wait):
    return "clear_output", {"wait": wait}


def texts(outputs):
    return [output_text(output) for output in outputs]


def capture(comm, on):
    return "comm_msg", {"comm_id": comm, "data": {"method": "update", "state": {"msg_id": "m" if on else ""}}}


def test_a_clear_inside_of_an_output_widget_spares_what_is_outside():
    outputs = composed(
        stream("above\n"),
        capture("out", True),
        stream("inside\n"),
        capture("nested", True),
        stream("deep\n"),
        clear(False),
        capture("nested", False),
        clear(True),
        display("figure", "f"),
        capture("out", False),
        stream("below\n"),
        capture("out", True),
        clear(True),
        stream("at last\n"),
        capture("out", False),
        update("gone", "f"),
    )
    assert texts(outputs) == ["above\n", "below\n", "at last\n"]


def test_consecutive_text_of_one_stream_is_one_output():
    outputs = composed(
        stream("a"), stream("b\n"), stream("c", "stderr"), stream("d"), stream(""), stream("e\r")
    )
    assert [(o["name"], o["text"]) for o in outputs] == [
        ("stdout", "ab\n"),
        ("stderr", "c"),
        ("stdout", "de\r"),
    ]


def test_results_displays_and_errors():
    outputs = composed(
        ("execute_result", {"data": {"text/plain": "2"}, "metadata": {"x": 1}, "execution_count": 7}),
        ("display_data", {"data": {"image/png": "aGk=", "application/json": {"a": [1]}}, "metadata": None}),
        ("error", {"ename": "E", "evalue": "v", "traceback": ["\x1b[31mt\x1b[0m"]}),
    )
    assert outputs[0] == {
        "output_type": "execute_result",
        "data": {"text/plain": "2"},
        "metadata": {"x": 1},
        "execution_count": 7,
    }
    assert outputs[1]["data"]["application/json"] == {"a": [1]}
    assert outputs[2]["traceback"] == ["\x1b[31mt\x1b[0m"]


def test_an_update_reaches_every_output_of_its_id_and_no_other():
    result = display("b", "x", "execute_result", execution_count=1)
    outputs = composed(display("a", "x"), display("n", "y"), result, update("new", "x"), update("?", "z"))
    assert texts(outputs) == ["new\n", "n\n", "new\n"]
    assert outputs[2]["execution_count"] == 1


def test_updates_do_not_change_what_was_composed_before():
    before = composed(display("a", "x"))
    composed(display("a", "x"), update("b", "x"))
    assert texts(before) == ["a\n"]


def test_clear_at_once_and_clear_with_the_next_output():
    assert texts(composed(stream("a"), clear(False), stream("b"))) == ["b"]
    assert texts(composed(stream("a"), clear(True), stream("b"), stream("c"))) == ["bc"]
    assert texts(composed(stream("a"), clear(True))) == ["a"]
    assert texts(composed(stream("a"), clear(True), clear(False), stream("b"), stream("c"))) == ["bc"]
    assert texts(composed(display("a"), clear(True), ("status", {}), update("u", "x"), display("b"))) == [
        "b\n"
    ]


def test_what_was_cleared_is_not_updated():
    assert texts(composed(display("a", "x"), clear(False), display("b"), update("c", "x"))) == ["b\n"]


def test_messages_that_are_no_output_are_ignored():
    kinds = ["comm_open", "comm_msg", "comm_close", "status", "execute_input", "debug_event", "execute_reply"]
    assert composed(*((kind, {"data": {}, "name": "x"}) for kind in kinds)) == []


def test_messages_that_break_the_rules_still_give_a_valid_notebook():
    composed(
        ("stream", {}),
        ("display_data", {}),
        (
            "display_data",
            {"data": {"text/plain": 5, "text/html": None, "image/png": ["a", "b"], "x/y": {"a": 1}}},
        ),
        ("display_data", {"data": None, "metadata": None, "transient": None}),
        ("display_data", {"data": 5, "metadata": "x", "transient": "y"}),
        ("comm_msg", {"data": [1, 2]}),
        ("comm_msg", {"data": "hello"}),
        ("comm_msg", {"data": {"state": [1]}}),
        ("execute_result", {"data": {"application/vnd.x+json": None}, "execution_count": "7"}),
        ("execute_result", {"data": {}, "execution_count": -1}),
        ("error", {"traceback": None}),
        ("error", {"ename": None, "evalue": 3, "traceback": [1]}),
    )


def test_a_million_lines_take_time_in_proportion():
    text = ("x" * 79 + "\n") * 100
    start = time.perf_counter()
    (output,) = compose((*stream(text), {}) for _ in range(10_000))
    assert len(output["text"]) == 80_000_000
    # About 0.1 s; copying the text so far at each message would take a minute.
    assert time.perf_counter() - start < 5


def test_text_as_a_terminal_shows_it():
    outputs = composed(
        stream("no newline"),
        display("<Figure>"),
        ("display_data", {"data": {"image/png": "aGk=", "text/html": "<b>"}, "metadata": {}}),
        stream("\x1b[32mgreen\x1b[0m\x1b]8;;http://x\x07link\x1b]8;;\x07\n"),
        ("error", {"ename": "E", "evalue": "v", "traceback": ["\x1b[31mTraceback\x1b[0m", "E: v"]}),
        ("error", {"ename": "E", "evalue": "v", "traceback": []}),
    )
    plain = "no newline\n<Figure>\n[image/png, text/html]\ngreenlink\nTraceback\nE: v\nE: v\n"
    assert outputs_text(outputs) == plain
    assert "\x1b[31mTraceback\x1b[0m" in outputs_text(outputs, ansi=True)


@pytest.mark.parametrize("text", [["a\n", "b"], "a\nb"])
def test_text_of_a_notebook_that_another_program_wrote(text):
    assert output_text({"output_type": "stream", "name": "stdout", "text": text}) == "a\nb"

"""What ranks say, behind their numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbcloud.sessions.host.labels import Labels, Lines
from nbcloud.sessions.runlog import line, renumbered, type_of


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["a\nb", "c\n"], ["[1] a\n", "[1] bc\n"]),
        (["a"], ["", "[1] a\n"]),
        (["\n\n"], ["[1]\n[1]\n"]),
        (["", "x\n"], ["", "[1] x\n"]),
        (["\r 10%", "\r 20%", "\n"], ["[1]  10%\r", "[1]  20%\r", "[1]  20%\n"]),
        (["\r 10%", "|##", "\nend\n"], ["[1]  10%\r", "[1]  10%|##\r", "[1]  10%|##\n[1] end\n"]),
        (["12345\r12\nx\n"], ["[1] 12345\r[1] 12   \n[1] x\n"]),
        (["dos\r\n", "dos\r", "\n"], ["[1] dos\n", "[1] dos\r", "[1] dos\n"]),
        (["\r50%"], ["[1] 50%\r", "[1] 50%\n"]),
    ],
)
def test_lines_are_whole_and_bars_are_drawn_over(pieces: list[str], shown: list[str]) -> None:
    lines = Lines("[1] ")
    got = [lines.add(piece) for piece in pieces]
    end = lines.end()
    assert [*got, *([end] if end else [])] == shown


def _message(kind: str, **content: Any) -> Any:
    return (1.0, kind, json.dumps(content).encode(), b"{}", [])


def _shown(messages: list[Any]) -> list[tuple[str, Any]]:
    return [(kind, json.loads(content)) for _, kind, content, _, _ in messages]


def test_displays_of_another_rank_stand_behind_its_number_and_results_are_of_the_first_only() -> None:
    display = {"data": {"text/plain": "x"}, "metadata": {}, "transient": {"display_id": "d"}}
    said = [
        _message("stream", name="stdout", text="begun"),
        _message("display_data", **display),
        _message("execute_result", data={}, metadata={}, execution_count=1),
        _message("clear_output", wait=False),
        _message("comm_open", comm_id="c"),
    ]
    first = _shown(Labels(0).label(said))
    assert [kind for kind, _ in first] == [kind for _, kind, *_ in said]
    assert first[1][1] == display
    second = _shown(Labels(1).label(said))
    assert [content.get("text") for _, content in second] == ["[1] begun\n", "[1]\n", None]
    assert second[2][1]["transient"] == {"display_id": "rank-1-d"}


def test_an_error_is_kept_back_until_it_is_known_to_have_been_none() -> None:
    error = {"ename": "E", "evalue": "v", "traceback": ["one\ntwo"]}
    labels = Labels(1)
    assert labels.label([_message("error", **error)]) == []
    assert labels.rest(failed=True) == []
    assert labels.error == error
    (went_on,) = _shown(labels.label([_message("stream", name="stdout", text="half a line")]))
    assert went_on[1] == {"name": "stderr", "text": "[1] one\n[1] two\n"}
    labels.label([_message("error", **error)])
    assert len(labels.rest(failed=False)) == 1


def test_a_line_of_the_journal_gets_another_number_unread() -> None:
    text = line(7, 12.5, "stream", b'{"name":"stdout","text":"{\\"n\\":7"}', b"{}", [])
    assert type_of(text) == "stream"
    assert json.loads(renumbered(text, 12)) == {**json.loads(text), "n": 12}


def test_the_first_rank_logs_and_its_line_goes_on_behind_that() -> None:
    entries = _message("nbcloud_log", run="", entries=[["metric", "a", 1.0, 0, 1.0]])
    first, second = Labels(0), Labels(1)
    for labels in (first, second):
        labels.label([_message("stream", name="stdout", text="half")])
    assert first.label([entries]) == [entries]
    assert second.label([entries]) == []
    end = first.label([_message("stream", name="stdout", text=" a line\n")])
    assert _shown(end) == [("stream", {"name": "stdout", "text": "[0] half a line\n"})]

"""How much of a run a browser gets, and how fast."""

import math
from types import SimpleNamespace

import pytest

from nbcloud.jupyter import pacing
from nbcloud.jupyter.output import LaterOutput
from nbcloud.jupyter.pacing import PacedOutput


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


@pytest.fixture
def limit(monkeypatch):
    """Characters that are shown of a stream, of which a line counts as some."""
    monkeypatch.setenv("NBCLOUD_SHOWN_LIMIT", "1000")
    return 1000


class Browser(PacedOutput):
    """Keeps what it is sent."""

    def __init__(self):
        super().__init__("r1")
        self.sent = []
        self.remarks = []

    def _write(self, name, text):
        self.sent.append((name, text))

    def _display(self, text, display_id, *, update):
        self.remarks.append((text, update))

    def take(self, *texts, name="stdout"):
        """Text comes, and is shown when it is due."""
        for text in texts:
            self._stream(name, text)
            if not self.patience:
                self._release()

    @property
    def text(self):
        return "".join(text for _, text in self.sent)


# --- how fast --------------------------------------------------------------------------------------------


def test_the_first_text_is_shown_at_once_and_the_next_pieces_together(clock):
    browser = Browser()
    assert browser.patience == math.inf
    browser.take("a\n")
    assert browser.sent == [("stdout", "a\n")]
    browser.take("b\n", "c\n")
    assert browser.sent == [("stdout", "a\n")]
    assert 0 < browser.patience <= pacing._REFRESH
    clock.sleep(pacing._REFRESH)
    browser.take("d\n")
    assert browser.sent == [("stdout", "a\n"), ("stdout", "b\nc\nd\n")]
    assert browser.patience == math.inf


def test_the_longer_a_stream_the_longer_its_pieces_wait(clock, limit):
    browser = Browser()
    browser.take("x" * (limit // 2))
    browser.take("y")
    assert browser.patience == pytest.approx(pacing._REFRESH_FULL * (limit // 2 + 1) / limit)
    browser._release(ends=True)  # by a figure, behind which a new stream begins
    browser.take("z")
    assert browser.patience <= pacing._REFRESH


def test_the_streams_keep_their_order(clock):
    browser = Browser()
    browser.take("a", "b")
    browser.take("c", name="stderr")
    browser.take("d")
    browser.close()
    assert browser.sent == [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]


def test_messages_stay_below_the_rate_that_a_server_drops(clock):
    browser, started = Browser(), clock.now
    for _ in range(pacing._MESSAGES_A_SECOND):
        browser._pace()
    assert clock.now == started, "as many as in one second may come at once"
    for _ in range(10 * pacing._MESSAGES_A_SECOND):
        browser._pace()
    assert clock.now - started > 9


# --- how much --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "grown"),
    [
        (["abc"], 3),
        (["abc\n"], 4 + pacing._LINE_COST),
        (["a\nb\nc"], 5 + 2 * pacing._LINE_COST),
        (["\r50%", "\r51%", "\r52%"], 3),
        (["50%\r", "51%\r", "52%\r"], 3),
        (["5%\r100%"], 4),
        (["100%", "\r5%"], 4),
        (["\rbar", "\rbar\n", "bar"], 7 + pacing._LINE_COST),
        (["\r\n"], 1 + pacing._LINE_COST),
    ],
)
def test_what_is_overwritten_does_not_count(texts, grown):
    browser = Browser()
    assert sum(browser._growth(text) for text in texts) == grown


def test_what_fits_exactly_is_shown_without_a_word(clock, limit):
    browser = Browser()
    browser.take("x" * limit)
    browser.close()
    assert browser.text == "x" * limit
    assert browser.remarks == []


def test_what_is_too_long_is_cut_at_a_line_and_ends_with_its_last_lines(clock, limit):
    lines = [f"{number:03}\n" for number in range(500)]
    browser = Browser()
    browser.take("".join(lines))
    browser.close()
    shown = browser.text.splitlines(keepends=True)
    first = len(shown) - pacing._TAIL_LINES
    assert shown == lines[:first] + lines[-pacing._TAIL_LINES :]
    assert 0 < first * (4 + pacing._LINE_COST) <= limit
    hidden = 500 - first
    last, update = browser.remarks[-1]
    assert last.startswith(f"… {hidden} lines more ({4 * hidden:,} characters), the last of them below.")
    assert update


def test_one_hidden_line_is_one(clock, limit):
    browser = Browser()
    browser.take("x" * limit, "the end\n")
    browser.close()
    assert browser.remarks[-1][0].startswith("… 1 line more (8 characters)")
    assert browser.text == "x" * limit + "the end\n"


def test_a_line_that_comes_in_pieces_is_one_line_at_the_end(clock, limit):
    browser = Browser()
    browser.take("x" * limit, "begin", "ning, ", "end\nla", "st")
    browser.close()
    assert browser.text.removeprefix("x" * limit) == "beginning, end\nlast"
    assert browser.remarks[-1][0].startswith("… 1 line more (19 characters)")


def test_how_much_is_hidden_is_told_now_and_then(clock, limit):
    browser = Browser()
    browser.take("x" * limit, "1\n", "2\n", "3\n")
    assert [update for _, update in browser.remarks] == [False]
    clock.sleep(pacing._LONG_PAUSE + 0.1)
    browser.take("4\n", "5\n")
    assert [update for _, update in browser.remarks] == [False, True]
    assert browser.remarks[-1][0].startswith("… 4 lines more. ")


def test_what_came_too_fast_counts_as_hidden(clock):
    browser = Browser()
    browser.take("first\n")
    browser._skip({"characters": 10_000, "lines": 1000, "tail": "last but one\nlast\n"})
    browser.take("after\n")
    browser.close()
    assert browser.text == "first\nlast but one\nlast\nafter\n"
    assert browser.remarks[-1][0].startswith("… 1,001 lines more (10,006 characters)")


# --- where -----------------------------------------------------------------------------------------------


def test_later_outputs_name_the_request_of_their_cell(clock):
    sent = []
    kernel = SimpleNamespace(
        iopub_socket=None,
        _topic=lambda kind: kind.encode(),
        session=SimpleNamespace(
            send=lambda _, kind, content, parent, ident: sent.append((kind, content, parent["header"]))
        ),
    )
    later = LaterOutput(SimpleNamespace(kernel=kernel), None, None, {"msg_id": "m1"}, "r1")
    figure = {"data": {"text/plain": "figure"}, "metadata": {}, "transient": {}}
    later.publish(
        [
            {"msg_type": "stream", "content": {"name": "stdout", "text": "a\n"}},
            {"msg_type": "stream", "content": {"name": "stdout", "text": "b\n"}},
            {"msg_type": "display_data", "content": figure},
            {"msg_type": "status", "content": {"execution_state": "idle"}},
        ]
    )
    later.notice("over")
    later.close()
    assert [kind for kind, _, _ in sent] == ["stream", "display_data", "stream"]
    assert [content.get("text") for _, content, _ in sent] == ["a\nb\n", None, "nbcloud: over\n"]
    assert all(header == {"msg_id": "m1"} for _, _, header in sent)

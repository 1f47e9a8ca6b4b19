"""Answers for people, browsers and programs."""

import time

import pytest

from nbcloud.commands.answers import Answer, ago, duration


def test_a_clock_that_was_set_back_makes_nothing_of_the_future():
    assert ago(time.time() + 60) == "0.0 s ago"


def test_a_table_is_aligned_and_the_text_is_below():
    answer = Answer("Two.", ["name", "n"], [["a", "1"], ["longer", "22"]])
    assert str(answer) == "name    n\na       1\nlonger  22\nTwo."


def test_a_browser_gets_no_markup_of_others():
    bundle = Answer("<b>", ["<i>"], [["<script>alert(1)</script>"]])._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    assert "&lt;b&gt;" in bundle["text/html"]
    assert "<script>" in bundle["text/plain"]


def test_an_answer_without_a_table_has_no_html():
    assert Answer("Done.")._repr_mimebundle_() == {"text/plain": "Done."}
    assert str(Answer()) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (90061, "1 d 1 h"),
    ],
)
def test_lengths_of_time(seconds, text):
    assert duration(seconds) == text


def test_ago():
    assert ago(None) == ""
    assert ago(time.time() - 120) == "2 min 0 s ago"

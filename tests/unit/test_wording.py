"""Words that depend on numbers, and on what there is to say."""

import pytest

from nbcloud.wording import counted, raised_text, size_text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (1347, "1,347 workers")]
)
def test_a_number_of_things(number, text):
    assert counted(number, "worker") == text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(None, ""), (0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * 2**50, "5,120.0 TiB")],
)
def test_sizes_for_people(nbytes, text):
    assert size_text(nbytes) == text


def test_an_error_without_words_is_its_name():
    assert raised_text("KeyError", "'a'") == "KeyError: 'a'"
    assert raised_text("KeyboardInterrupt", "") == "KeyboardInterrupt"

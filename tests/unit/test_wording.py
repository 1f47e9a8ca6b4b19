"""Words that depend on numbers."""

import pytest

from nbcloud.wording import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 workers"), (1, "1 worker"), (2, "2 workers"), (1347, "1,347 workers")]
)
def test_a_number_of_things(number, text):
    assert counted(number, "worker") == text

"""What MLflow says, as it is on record here."""

import math

from nbcloud.runs.imports.words import number_of, value_of


def test_a_number_is_one_where_its_text_is_exactly_that_numbers():
    texts = ["1", "0.1", "1e-05", "-2", "true", "01", "1.0e3", "NaN", "Infinity", "None", "[1]", '"a"', ""]
    kept = {text: value_of(text) for text in texts}
    assert {text for text, value in kept.items() if value != text} == {"1", "0.1", "1e-05", "-2", "true"}


def test_the_largest_number_of_a_database_is_infinity():
    assert [number_of(each) for each in (1.7976931348623157e308, -1.7976931348623157e308, 0.5)] == [
        math.inf,
        -math.inf,
        0.5,
    ]

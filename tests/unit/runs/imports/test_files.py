"""Names of files are those of an MLflow that nobody trusts."""

import pytest

from nbcloud.runs.imports.files import _is_plain


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "a//b", "..", "", "a\\..\\..\\b", "C:/a", "a\0b"]
)
def test_a_name_that_leads_out_is_none(name):
    assert not _is_plain(name)


def test_a_name_may_have_folders_and_signs():
    assert _is_plain("deep/er/w:1.bin")

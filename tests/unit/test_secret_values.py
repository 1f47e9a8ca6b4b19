"""A secret is asked for once, kept in memory, and told only to those who name it."""

import getpass

import pytest

from nbcloud import secret_values
from nbcloud.errors import UsageError


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secret_values, "_known", {})
    monkeypatch.delenv("API_TOKEN", raising=False)


@pytest.fixture
def typed(monkeypatch):
    """What a person types, and what they were asked."""
    asked = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or "typed-value")
    return asked


def test_the_environment_knows_it(monkeypatch, typed):
    monkeypatch.setenv("API_TOKEN", "from-outside")
    assert secret_values.secret("API_TOKEN") == "from-outside"
    assert typed == []
    assert secret_values.all_known() == {"API_TOKEN": "from-outside"}


def test_a_person_is_asked_once(typed):
    assert secret_values.secret("API_TOKEN") == "typed-value"
    assert secret_values.secret("API_TOKEN") == "typed-value"
    assert typed == ["API_TOKEN: "]


def test_where_nobody_can_be_asked_the_next_step_is_said(monkeypatch):
    def refuse(_prompt):
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", refuse)
    with pytest.raises(UsageError, match=r"'API_TOKEN' is not known here.*nbcloud\.secret\(\"API_TOKEN\"\)"):
        secret_values.secret("API_TOKEN")


def test_only_the_named_ones_are_told_and_nobody_is_asked(monkeypatch, typed):
    secret_values.give({"A": "a-value", "B": "b-value"})
    monkeypatch.setenv("API_TOKEN", "outside")
    assert secret_values.known(["A", "API_TOKEN", "C"]) == {"A": "a-value", "API_TOKEN": "outside"}
    assert typed == []


def test_what_was_told_can_not_be_changed_from_outside():
    secret_values.give({"A": "a-value"})
    secret_values.all_known()["A"] = "other"
    assert secret_values.secret("A") == "a-value"

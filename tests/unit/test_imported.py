"""What is done with a module as soon as it has been imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbcloud.imported import when_imported


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that nobody has imported yet."""
    (tmp_path / "arrives_later.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield "arrives_later"
    sys.modules.pop("arrives_later", None)
    sys.meta_path[:] = before


def test_it_is_done_once_behind_the_import(later: str) -> None:
    seen: list[int] = []
    when_imported(later, lambda module: seen.append(module.answer))
    when_imported(later, lambda module: seen.append(-module.answer))
    assert seen == []
    importlib.import_module(later)
    assert seen == [42, -42]
    importlib.reload(sys.modules[later])
    assert seen == [42, -42]


def test_it_is_done_now_where_the_module_is_there(later: str) -> None:
    importlib.import_module(later)
    seen: list[int] = []
    when_imported(later, lambda module: seen.append(module.answer))
    assert seen == [42]


def test_it_can_be_forgotten(later: str) -> None:
    seen: list[int] = []
    forget = when_imported(later, lambda module: seen.append(module.answer))
    forget()
    forget()
    importlib.import_module(later)
    assert seen == []


def test_what_is_missing_is_missing_as_ever() -> None:
    forget = when_imported("no_such_module_anywhere", lambda _: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")
    forget()

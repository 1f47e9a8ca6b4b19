"""What a template looks at before it shares a module."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcloud.sessions.kernel import preloads


def test_a_device_that_was_opened_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloads, "_DEVICES", ("/dev/full",))  # which every Linux has
    assert preloads._devices() == []
    with Path("/dev/full").open("rb"):
        assert preloads._devices() == ["/dev/full"]

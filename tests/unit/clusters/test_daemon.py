"""What the process of a local cluster does beside being one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcloud.clusters import daemon


def test_a_log_keeps_its_newer_half_and_those_who_append_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_LOG_LIMIT", 1000)
    path = tmp_path / "daemon.log"
    with path.open("ab", buffering=0) as writer:
        writer.writelines(b"line %04d\n" % number for number in range(100))
        daemon._shorten_log(path)
        assert path.stat().st_size == 1000
        writer.write(b"line 0100\n")
        daemon._shorten_log(path)
        writer.write(b"line 0101\n")
    lines = path.read_text().splitlines()
    assert lines == [f"line {number:04}" for number in range(52, 102)]


def test_a_log_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    daemon._shorten_log(tmp_path / "daemon.log")
    assert list(tmp_path.iterdir()) == []

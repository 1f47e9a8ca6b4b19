"""Words that depend on numbers, and on what there is to say."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things: ``"1 worker"``, ``"1,347 lines"``; for nouns whose plural ends in -s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size_text(nbytes: float | None) -> str:
    """Bytes for people: ``"96.0 MiB"``; empty when unknown."""
    if nbytes is None:
        return ""
    size, units = float(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "B" else f"{size:,.1f} {units[0]}"


def raised_text(name: str, says: str) -> str:
    """An error in one line: ``"KeyError: 'a'"``, and ``"KeyboardInterrupt"`` without words."""
    return f"{name}: {says}" if says else name

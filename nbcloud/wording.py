"""Words that depend on numbers."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things: ``"1 worker"``, ``"1,347 lines"``; for nouns whose plural ends in -s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

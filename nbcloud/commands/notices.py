"""Sentences of nbcloud's own, told apart from what the user's code prints."""

from __future__ import annotations

import sys


def notice(text: str) -> None:
    """Say something to the user, on stderr."""
    sys.stderr.write(f"nbcloud: {text}\n")
    sys.stderr.flush()

"""Sentences of nbcloud's own, told apart from what the user's code prints."""

from __future__ import annotations

import contextlib
import sys

from nbcloud.runs.record import RunState


def notice(text: str) -> None:
    """Say something to the user, on stderr."""
    # To nobody when the terminal is gone, which must not stop what is being taken back.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"nbcloud: {text}\n")
        sys.stderr.flush()


def nothing_shown(run: str, state: RunState) -> None:
    """What is said in place of the outputs of a run that has none."""
    notice(f"Run {run} ({state}) has shown nothing{'' if state.ended else ' yet'}.")

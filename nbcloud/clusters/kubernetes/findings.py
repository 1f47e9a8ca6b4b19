"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    what: str
    state: Literal["ok", "warning", "bad", "unknown"]
    text: str
    hint: str = ""

"""Which names of an IPython namespace are the user's."""

from __future__ import annotations

import re

_HISTORY = re.compile(r"_+|_i+|_i?\d+|_oh|_ih|_dh|_sh|In|Out|get_ipython|exit|quit|open|__\w+__")


def is_history(name: str) -> bool:
    """Whether IPython keeps its history, or itself, under this name."""
    return _HISTORY.fullmatch(name) is not None

"""Which names of an IPython namespace are the user's."""

from __future__ import annotations

import re

_HISTORY = re.compile(r"_+|_i+|_i?\d+|_oh|_ih|_dh|_sh|In|Out|get_ipython|exit|quit|open|__\w+__")

_FIRST = "_IOgeqo"
"""A look at the first letter is quicker, and this is asked for each name with each cell."""


def is_history(name: str) -> bool:
    """Whether IPython keeps its history, or itself, under this name."""
    return (name[:1] in _FIRST) and _HISTORY.fullmatch(name) is not None

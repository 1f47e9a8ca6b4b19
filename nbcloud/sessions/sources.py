"""Texts of cells, which go with functions that were defined in them, so that tracebacks show their lines."""

from __future__ import annotations

import linecache
from collections.abc import Iterable
from typing import Any


def cell_sources(shell: Any, files: Iterable[str], sent: set[str]) -> list[dict[str, Any]]:
    """The text of each notebook cell among ``files`` that is not in ``sent`` yet, and its number."""
    found = []
    for name in files:
        count = shell.compile._filename_map.get(name)
        if name in sent or count is None:
            continue
        sent.add(name)
        found.append({"file": name, "text": "".join(linecache.getlines(name)), "count": count})
    return found


def learn(shell: Any, sources: Iterable[dict[str, Any]]) -> None:
    """Take in what `cell_sources` gave on the other side."""
    for source in sources:
        name, text = source["file"], source["text"]
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        if shell is not None and source.get("count") is not None:
            shell.compile._filename_map[name] = source["count"]

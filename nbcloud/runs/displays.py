"""Figures as files, and values as they are displayed."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from nbcloud.errors import UsageError


def figure_file(figure: Any, name: str) -> tuple[bytes, str]:
    """A figure as the content of a file, and the file's name with its ending.

    Raises
    ------
    UsageError
        When it is no figure, or the library can't write that format.
    """
    ending = PurePath(name).suffix
    figure = _whole(figure)
    try:
        if hasattr(figure, "to_html") and hasattr(figure, "to_plotly_json"):
            if ending in ("", ".html"):
                return figure.to_html().encode(), name if ending else f"{name}.html"
            return bytes(figure.to_image(format=ending[1:])), name
        target = io.BytesIO()
        if hasattr(figure, "savefig"):
            figure.savefig(target, format=ending[1:] or "png", bbox_inches="tight")
        elif _is_image(figure):
            target.name = name if ending else f"{name}.png"
            figure.save(target)
        else:
            raise UsageError(
                f"A {type(figure).__name__} is no figure of matplotlib, plotly or Pillow.",
                "nbcloud.record keeps anything that a notebook can display.",
            )
    except (ValueError, KeyError) as error:
        raise UsageError(f"The figure {name!r} can't be written: {error}.", "Try .png.") from None
    return target.getvalue(), name if ending else f"{name}.png"


def recorded(value: Any) -> dict[str, Any]:
    """A value itself, where JSON holds it exactly, or what is displayed for it."""
    exact = _exact(value)
    if exact is not _INEXACT:
        return {"value": exact}
    figure = _whole(value)
    if hasattr(figure, "savefig") or _is_image(figure):
        content, _ = figure_file(figure, "figure.png")
        return {"data": {"image/png": base64.b64encode(content).decode(), "text/plain": repr(value)}}
    data, metadata = _formatted(value)
    return {"data": data, "metadata": metadata}


_INEXACT = object()


def _exact(value: Any) -> Any:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        value = item()
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return _INEXACT
    # JSON makes lists of tuples, and texts of a dict's keys: that is told from the outside by nobody.
    return json.loads(text)


def _whole(figure: Any) -> Any:
    """The figure of what plotting functions return: axes."""
    whole = getattr(figure, "figure", None)
    return whole if hasattr(whole, "savefig") else figure


def _is_image(value: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _formatted(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    formatter = DisplayFormatter() if shell is None else shell.display_formatter
    data, metadata = formatter.format(value)
    if not data:  # it displays itself
        data = {"text/plain": repr(value)}
    return {mime: _text(part) for mime, part in data.items()}, _plain_keys(metadata)


def _text(part: Any) -> Any:
    if isinstance(part, bytes):
        return base64.b64encode(part).decode()
    return part if isinstance(part, str) or _exact(part) is not _INEXACT else repr(part)


def _plain_keys(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in metadata.items() if _exact(value) is not _INEXACT}

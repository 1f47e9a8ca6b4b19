"""Sizes and lengths of time, as people write them."""

from __future__ import annotations

from decimal import Decimal

from nbcloud.errors import ConfigError

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"": 1, "MS": 1e-3, "S": 1, "SEC": 1, "M": 60, "MIN": 60, "H": 3600, "D": 86400}


def number_text(value: float) -> str:
    """A number as it would be written without an exponent, and all of it."""
    return str(value) if isinstance(value, int) else f"{Decimal(repr(value)):f}"


def _split(text: str) -> tuple[float, str]:
    text = text.strip()
    unit = text.lstrip("0123456789.").strip()
    number = (text[: len(text) - len(unit)] if unit else text).strip()
    return int(number) if number.isdecimal() else float(number), unit.upper()


def parse_bytes(text: str) -> int:
    """Bytes from ``"16GiB"``, ``"500 MB"`` or ``"1024"``."""
    try:
        number, unit = _split(text)
        return int(number * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ConfigError(f"{text!r} is not a size.", "Write for example 512MiB or 16GB.") from None


def parse_seconds(text: str) -> float:
    """Seconds from ``"90"``, ``"30s"``, ``"5min"`` or ``"2h"``."""
    try:
        number, unit = _split(text)
        return float(number * _SECONDS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ConfigError(
            f"{text!r} is not a length of time.", "Write for example 30s, 5min or 2h."
        ) from None

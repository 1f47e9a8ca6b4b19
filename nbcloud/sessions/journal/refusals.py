"""Amounts of resources in words, and why a cluster can't hold or does not yet hold a session."""

from __future__ import annotations

from collections.abc import Sequence

from nbcloud.wording import size_text

_UNITS = {"GPU": "GPU", "CPU": "CPU"}
_SHOWN = 3


def amount_text(resource: str, amount: float) -> str:
    """So much of a resource: ``"2 GPUs"``, ``"64.0 GiB of memory"``."""
    if resource == "MEMORY":
        return f"{size_text(int(amount))} of memory"
    unit = _UNITS.get(resource)
    if unit is None:
        return f"{resource} {amount:g}"
    return f"{amount:g} {unit}" if amount == 1 else f"{amount:g} {unit}s"


def amounts_text(resources: dict[str, float]) -> str:
    """All that a session asks for."""
    return ", ".join(amount_text(*item) for item in resources.items())


def taken_text(resources: dict[str, float]) -> str:
    """Why a session waits: ``"1 GPU is taken on every worker"``."""
    several = len(resources) > 1 or any(name in _UNITS and amount != 1 for name, amount in resources.items())
    return f"{amounts_text(resources)} {'are' if several else 'is'} taken on every worker"


def too_large(resource: str, wanted: float, most: float, *, managed: bool) -> str:
    """Why nothing of a cluster fits whose largest worker has ``most``.

    Parameters
    ----------
    managed : bool
        Whether a profile says what its workers are, rather than the options of ``%cloud up``.
    """
    gpus = resource == "GPU"
    larger = "with larger workers: %cloud up NAME --threads N --memory SIZE"
    if gpus:
        larger = "with a profile that has more gpus: %cloud up PROFILE"
    hint = f"Ask for less, or start a cluster {larger}"
    if managed:
        hint = f"Ask for less, or have {'more gpus' if gpus else 'larger workers'} in the cluster's profile."
    if gpus and not most:
        hint = "Start a cluster with a profile that has gpus: %cloud up PROFILE"
        return f"No worker of this cluster has a GPU. {hint}"
    return (
        f"No worker of this cluster has {amount_text(resource, wanted)}: "
        f"the largest has {amount_text(resource, most)}. {hint}"
    )


def too_few(room: int, size: int, resources: dict[str, float], *, managed: bool) -> str:
    """Why a gang does not fit for all of whose members there is no room."""
    more = "have more in the cluster's profile." if managed else "have more: %cloud scale N"
    return (
        f"This cluster has room for {room} of {size} workers with {amounts_text(resources)}. "
        f"Ask for fewer or smaller ones, or {more}"
    )


def held_text(holders: Sequence[str]) -> str:
    """Who has what a session waits for, and how to end that; empty when nobody is known."""
    if not holders:
        return ""
    if len(holders) == 1:
        return f" (held by session {holders[0]}; to end it: %cloud reset {holders[0]})"
    more = ", …" if len(holders) > _SHOWN else ""
    names = ", ".join(holders[:_SHOWN])
    return f" (held by sessions {names}{more}; to end one: %cloud reset NAME)"

"""Amounts of cpu, memory and devices, as Kubernetes writes them, and what a pod asks for."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

_SUFFIXES = (
    {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)}
    | {suffix: Fraction(1000 ** (power + 1)) for power, suffix in enumerate(["k", "M", "G", "T", "P"])}
    | {suffix: Fraction(1024 ** (power + 1)) for power, suffix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi"])}
)


def parse(quantity: str | int | float) -> Fraction:
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(quantity))
    if not found or found[2] not in _SUFFIXES:
        raise ValueError(f"quantities must match the regular expression, not {quantity!r}")
    return Fraction(found[1]) * _SUFFIXES[found[2]]


def show(amount: Fraction) -> str:
    """The canonical spelling."""
    if amount.denominator != 1:
        return f"{-(-amount * 1000 // 1)}m"
    for suffix in ("Ti", "Gi", "Mi", "Ki"):
        if amount and amount % _SUFFIXES[suffix] == 0:
            return f"{amount / _SUFFIXES[suffix]}{suffix}"
    return str(amount)


def of_container(container: dict[str, Any], what: str) -> dict[str, Fraction]:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    if what == "limits":
        amounts = resources.get("limits") or {}
    return {name: parse(amount) for name, amount in amounts.items()}


def of_pod(spec: dict[str, Any], what: str = "requests") -> dict[str, Fraction]:
    """What a pod requests, or its limits: all its containers together, or the largest of its init containers."""
    total: dict[str, Fraction] = {}
    for container in spec["containers"]:
        for name, amount in of_container(container, what).items():
            total[name] = total.get(name, Fraction(0)) + amount
    for container in spec.get("initContainers") or ():
        for name, amount in of_container(container, what).items():
            total[name] = max(total.get(name, Fraction(0)), amount)
    return total

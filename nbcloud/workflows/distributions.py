"""From what a parameter's values are drawn: ``uniform:0:1``, ``loguniform:1e-4:1e-1``, ``randint:1:9``."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.wording import counted

_NOTATION = re.compile(r"(uniform|loguniform|randint|lograndint):([^:]+):([^:]+)")
_EXAMPLE = "Write for example: lr=loguniform:1e-4:1e-1"
_TRIES = 100


@dataclass(frozen=True)
class Distribution:
    """Numbers between two bounds.

    Attributes
    ----------
    low, high : float
        Whole numbers do not reach ``high``, as in ``range``.
    whole : bool
        Whether they are whole.
    log : bool
        Whether their logarithms are what is evenly spread.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def __str__(self) -> str:
        name = ("log" if self.log else "") + ("randint" if self.whole else "uniform")
        return f"{name}:{self.low!r}:{self.high!r}"

    def draw(self, source: random.Random) -> float:
        """One number."""
        if not self.log and self.whole:
            return source.randrange(int(self.low), int(self.high))
        if not self.log:
            return source.uniform(self.low, self.high)
        number = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        number = min(max(number, self.low), self.high)
        return min(int(number), int(self.high) - 1) if self.whole else number


Domain = Sequence[Any] | Distribution
"""What a parameter may be: one of some values, or a number that is drawn."""


def distribution(text: str) -> Distribution | None:
    """The distribution that a text means; None for one that means something else.

    Raises
    ------
    UsageError
        When its bounds are none.
    """
    found = _NOTATION.fullmatch(text.strip())
    if found is None:
        return None
    whole, log = found[1].endswith("randint"), found[1].startswith("log")
    try:
        low, high = (int(each) if whole else float(each) for each in found.groups()[1:])
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise UsageError(f"{text}: its bounds must be {kind}.", _EXAMPLE) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"{text}: the first bound must be below the second.", _EXAMPLE)
    if log and low <= 0:
        raise UsageError(f"{text}: for logarithms the bounds must be above 0.", _EXAMPLE)
    return Distribution(low, high, whole, log)


def domain(values: Any) -> Domain:
    """What Python code gives for a parameter: a sequence of values, or a distribution as text."""
    if isinstance(values, Distribution):
        return values
    if isinstance(values, str):
        drawn_from = distribution(values)
        if drawn_from is None:
            raise UsageError(
                f"{values!r} is no list of values.", f"Write [{values!r}], or a distribution: 'uniform:0:1'"
            )
        return drawn_from
    found = [plain(each) for each in values]
    if not found:
        raise UsageError("A parameter of a grid has no values.", "Write for example: {'lr': [0.1, 0.01]}")
    return found


def plain(value: Any) -> Any:
    """A value as a notebook's file can hold it: what numpy has as Python has it, a path as text.

    Raises
    ------
    UsageError
        For what papermill would write as its text, so that the notebook got another thing.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist") and hasattr(value, "ndim"):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(each) for each in value]
    if isinstance(value, int | float | str):  # of a class of its own
        return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(each) for key, each in value.items()}
    what = "dict whose keys are no texts" if isinstance(value, Mapping) else type(value).__name__
    raise UsageError(
        f"The parameter of a notebook can't be a {what}: {value!r:.60}.",
        "Give numbers, texts, True, False, None, lists or dicts; of data, its path.",
    )


def drawn(domains: Mapping[str, Domain], count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` different members, drawn at random.

    Raises
    ------
    UsageError
        When there are not so many.
    """
    source = random.Random(seed)  # noqa: S311 - no secret
    possible = math.prod(
        math.inf if isinstance(each, Distribution) else len(each) for each in domains.values()
    )
    if count < 1:
        raise UsageError(f"--random {count}: it must be at least 1.")
    if count > possible:
        raise UsageError(
            f"--random {count}: the grid has only {counted(int(possible), 'member')}.",
            "Leave out --random to run them all, or let values be drawn: -g NAME=uniform:A:B",
        )
    found: dict[str, dict[str, Any]] = {}
    if possible <= _TRIES * count:  # so that the last ones are found, too
        lists = {name: [*each] for name, each in domains.items() if not isinstance(each, Distribution)}
        places = source.sample(range(int(possible)), count)
        return [_at(lists, place) for place in places]
    for _ in range(_TRIES * count):
        member = {name: _draw(each, source) for name, each in domains.items()}
        found.setdefault(repr(member), member)
        if len(found) == count:
            return [*found.values()]
    raise UsageError(f"--random {count}: there are not so many different members.", "Draw fewer.")


def _draw(values: Domain, source: random.Random) -> Any:
    return values.draw(source) if isinstance(values, Distribution) else source.choice(values)


def _at(lists: Mapping[str, list[Any]], place: int) -> dict[str, Any]:
    """The member at a place of the grid, whose last name varies quickest."""
    member: dict[str, Any] = {}
    for name in reversed([*lists]):
        place, at = divmod(place, len(lists[name]))
        member[name] = lists[name][at]
    return {name: member[name] for name in lists}

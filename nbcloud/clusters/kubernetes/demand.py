"""How many workers more the waiting work needs, and of which group."""

from __future__ import annotations

from dataclasses import dataclass, field

_TASKS_EACH = 4
"""Dask tasks in line that are worth one worker more."""


@dataclass
class Group:
    """Workers that are alike, as the steward counts them."""

    key: str
    object: str
    minimum: int
    maximum: int
    idle: float
    idle_sessions: float
    resources: dict[str, float]
    price: float = 0.0
    replicas: int = 0
    """As many as Kubernetes was asked for."""
    joined: int = 0
    """As many as have come."""
    profile: tuple[int, int] = field(init=False)
    """Minimum and maximum to which `follow` goes back."""

    def __post_init__(self) -> None:
        self.profile = self.minimum, self.maximum

    def follow(self) -> None:
        """Have its number follow the work again, whatever it was fixed at."""
        self.minimum, self.maximum = self.profile

    @property
    def is_adaptive(self) -> bool:
        """Whether its number follows the work."""
        return self.maximum > self.minimum


@dataclass
class Want:
    """Work that waits."""

    resources: dict[str, float] = field(default_factory=dict)
    count: int = 1
    is_tasks: bool = False
    """Whether it is Dask tasks, of which a worker takes several, rather than a session, which it holds."""


def wanted_workers(wants: list[Want], groups: list[Group], free: list[dict[str, float]]) -> dict[str, int]:
    """Workers that each group lacks, beside those that have joined.

    Parameters
    ----------
    wants : list of Want
    groups : list of Group
    free : list of dict
        What each worker has left.
    """
    places = [dict(each) for each in free]
    more: dict[str, int] = {}
    for want in wants:
        if want.is_tasks:
            group = _cheapest(want.resources, groups)
            if group is not None:  # they are in line because every worker has as many as it can take
                needed = -(-want.count // _TASKS_EACH)
                more[group.key] = max(more.get(group.key, 0), needed)
            continue
        for _ in range(want.count):
            place = next((place for place in places if _fits(want.resources, place)), None)
            if place is None:
                group = _cheapest(want.resources, groups, more)
                if group is None:
                    continue
                more[group.key] = more.get(group.key, 0) + 1
                place = dict(group.resources)
                places.append(place)
            for name, amount in want.resources.items():
                place[name] = place.get(name, 0) - amount
    return more


def _fits(resources: dict[str, float], place: dict[str, float]) -> bool:
    return all(place.get(name, 0) >= amount for name, amount in resources.items())


def _cheapest(
    resources: dict[str, float], groups: list[Group], more: dict[str, int] | None = None
) -> Group | None:
    """The group to grow: one that fits and may grow; without GPUs if none is needed, then by price."""
    fitting = [
        group
        for group in groups
        if group.is_adaptive
        and _fits(resources, group.resources)
        and group.joined + (more or {}).get(group.key, 0) < group.maximum
    ]
    return min(
        fitting, key=lambda group: (group.resources.get("GPU", 0), group.price, group.key), default=None
    )

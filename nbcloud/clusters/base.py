"""What a cluster is to the rest of nbcloud, and the small interface that each backend offers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from nbcloud.errors import UsageError, VersionSkew

FORMAT = 1
"""Version of the registry's entries. Raise it when an older nbcloud would misread a newer entry."""

Progress = Callable[[str], None]
"""Is told each phase of a start, in a few words."""

DEFAULT_GROUP = "default"
"""The group of workers that every cluster has."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def silent(text: str) -> None:
    """Be told of progress, and say nothing."""


def check_name(name: str) -> str:
    """Return ``name`` when it can name a cluster.

    Raises
    ------
    UsageError
        For anything but letters, digits and ``- _ .``, of which the first is a letter or a digit.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be the name of a cluster.",
            "Use up to 64 letters, digits, '-', '_' and '.', and begin with a letter or a digit.",
        )
    return name


def check_only_group(name: str, group: str) -> None:
    """Refuse any group but the default one, for a cluster of that name that has no other.

    Raises
    ------
    UsageError
    """
    if group != DEFAULT_GROUP:
        raise UsageError(
            f"The cluster {name!r} has no group {group!r}: its workers are all alike.", "Leave out -g."
        )


@dataclass(frozen=True)
class TLSFiles:
    """Paths of PEM files: who may sign, and this side's own certificate and key."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True)
class ClusterInfo:
    """One cluster, as the registry knows it; plain data that travels as JSON."""

    name: str
    id: str
    """New at each start: two clusters of one name, one after the other, have different ids."""
    kind: str
    """``local``, ``existing`` or ``kubernetes``."""
    address: str
    """Address of the scheduler, ``tls://…`` or ``tcp://…``; empty while the cluster starts."""
    tls: TLSFiles | None = None
    pid: int | None = None
    """Process of the scheduler, when it is one of ours."""
    started: str = ""
    """Identity of that process's start, which tells it from a later process with the same pid."""
    created: float = 0.0
    """Seconds since the epoch."""
    host: str = ""
    """The machine that made the entry."""
    directory: str | None = None
    """The cluster's own directory (0700): certificates, log, ``journal/``, ``spool/``."""
    workers: int = 0
    threads: int = 0
    """Threads of each worker."""
    memory: int = 0
    """Bytes that each worker may use."""
    idle_timeout: float = 0.0
    """Seconds without a run after which it stops by itself; 0 never."""
    version: str = ""
    """Version of nbcloud that started it."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """What ``up`` was asked for, to start it again alike."""

    @property
    def ready(self) -> bool:
        """Whether the scheduler and its workers have come up."""
        return bool(self.address)

    @property
    def is_ours(self) -> bool:
        """Whether nbcloud started it, and may end it."""
        return self.kind != "existing"

    def security(self) -> Any:
        """The ``distributed.Security`` of a client, worker or scheduler; None without TLS."""
        if self.tls is None:
            return None
        from distributed.security import Security

        own: dict[str, str] = {}
        for role in ("client", "worker", "scheduler"):
            own |= {f"tls_{role}_cert": self.tls.cert, f"tls_{role}_key": self.tls.key}
        return Security(require_encryption=True, tls_ca_file=self.tls.ca, **own)

    def to_json(self) -> str:
        """The entry as the registry keeps it."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> ClusterInfo:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            When it is not such an entry; the message says why.
        VersionSkew
            When a newer nbcloud wrote it.
        """
        entry = json.loads(text)
        if not isinstance(entry, dict) or not isinstance(entry.get("format"), int):
            raise ValueError("it is not an entry of nbcloud's registry")
        if entry["format"] > FORMAT:
            raise VersionSkew(
                f"A newer nbcloud registered the cluster {entry.get('name')!r}.", "Upgrade nbcloud."
            )
        values = {name: entry[name] for name in _TYPES if name in entry}
        for name, value in values.items():
            if not isinstance(value, _TYPES[name]):
                raise ValueError(f"its {name!r} can't be {value!r}")
        try:
            tls = entry.get("tls")
            return cls(**values, tls=TLSFiles(**tls) if tls else None)
        except TypeError as error:
            raise ValueError(f"it lacks something ({error})") from None


_NUMBER = (int, float)
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "id", "kind", "address", "started", "host", "version"), str),
    **dict.fromkeys(("workers", "threads", "memory"), int),
    **dict.fromkeys(("created", "idle_timeout"), _NUMBER),
    "pid": (int, type(None)),
    "directory": (str, type(None)),
    "options": dict,
}


class Backend(Protocol):
    """What each kind of cluster offers; its module is the backend.

    ``tests/contracts/test_clusters.py`` holds what all of them promise.
    """

    def up(self, *args: Any, **options: Any) -> ClusterInfo:
        """Bring the cluster up, or find it up, and register it."""

    def alive(self, info: ClusterInfo) -> bool:
        """Whether it is there: a look at the process or the port, never at how it feels."""

    def down(self, info: ClusterInfo) -> None:
        """End what `up` began, and forget it. Does nothing when that was done before."""

    def scale(
        self, info: ClusterInfo, n: int, group: str = DEFAULT_GROUP, *, progress: Progress = silent
    ) -> ClusterInfo:
        """Give a group of its workers ``n`` of them, where its size is ours to choose.

        ``progress`` is told, in whole sentences, what is not so when this returns.
        """

    def follow(self, info: ClusterInfo, group: str = DEFAULT_GROUP) -> None:
        """Have the number of a group's workers follow the work again, where it did before `scale`."""

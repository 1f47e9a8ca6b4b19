"""A run on record: what was asked, where it ran, how it ended.

A low floor of the house: plain data that every room may pass on, and that survives JSON.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import threading
import time
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Self

from nbcloud.errors import StoreError, UsageError

FORMAT = 1
"""Version of the run document. Adding a key keeps it; raise it when the meaning of a key changes, and let
``Run.from_json`` translate the older meaning."""

EXPORT = "export"
"""The kind of runs that made a version of a model."""
IMPORTED = "imported"
"""The kind of runs that came from MLflow: no process here keeps them, and they don't go there."""


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether nothing more is awaited from the run."""
        return self not in (RunState.QUEUED, RunState.RUNNING)

    def may_become(self, other: RunState) -> bool:
        """Whether a run may go from this state to ``other`` (staying is always allowed)."""
        return other is self or other in _NEXT[self]


_KNOWN_ENDS = frozenset({RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.TIMEOUT})
_NEXT: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: _KNOWN_ENDS | {RunState.RUNNING, RunState.LOST},
    RunState.RUNNING: _KNOWN_ENDS | {RunState.LOST},
    # "lost" says that the end is unknown: a journal that turns up with the real end may still correct it, and
    # a notebook whose process went away is gone on with by another.
    RunState.LOST: _KNOWN_ENDS | {RunState.RUNNING},
} | {end: frozenset() for end in _KNOWN_ENDS}


# Crockford's alphabet: sorts as its numbers do, and has no i, l, o, u to mistake for others.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 20
_ID_DIGITS = 12
_ID = re.compile(f"r[{_ALPHABET}]{{{_ID_DIGITS}}}")
_last_number = 0
_last_lock = threading.Lock()


def new_run_id(when: float | None = None) -> str:
    """A new id: ``r``, then eight digits of time in steps of 10 ms, then four random ones, in base 32.

    Ids sort by time as text. Those that one process makes for the present strictly increase.

    Parameters
    ----------
    when : float, optional
        Unix seconds to make the id for, when a run of the past is brought in; the present otherwise.
    """
    global _last_number
    if when is not None:
        return number_id(time_number(when) + _random())
    with _last_lock:
        number = time_number(time.time()) + _random()
        _last_number = max(number, _last_number + 1)
        return number_id(_last_number)


def _random() -> int:
    return int.from_bytes(os.urandom(4), "big") % (1 << _RANDOM_BITS)


def time_number(when: float) -> int:
    """The lowest id, as a number, of runs created at ``when`` (unix seconds)."""
    return max(0, int(when * 100)) << _RANDOM_BITS


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a whole id; such a text is safe as a name of a folder."""
    return _ID.fullmatch(text) is not None


def id_number(run_id: str) -> int:
    """The id as a number (60 bits), ordered as the ids are."""
    number = 0
    for digit in run_id[1:]:
        number = number * 32 + _ALPHABET.index(digit)
    return number


def number_id(number: int) -> str:
    """The id whose number this is."""
    digits = [_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_ID_DIGITS))]
    return "r" + "".join(digits)


def prefix_numbers(prefix: str) -> tuple[int, int] | None:
    """The lowest and the highest id number that begin with ``prefix``; None where no id can."""
    missing = _ID_DIGITS + 1 - len(prefix)
    if missing < 0 or not is_run_id(prefix + "0" * missing):
        return None
    return id_number(prefix + "0" * missing), id_number(prefix + "z" * missing)


@dataclass(frozen=True)
class Run:
    """One piece of work and all that is kept about it, except its outputs.

    Times are unix seconds. ``to_json`` and ``from_json`` are exact inverses, also for keys written by a
    later nbcloud, which live in ``extra``.
    """

    id: str = field(default_factory=new_run_id)
    name: str = ""
    kind: str = "cell"
    parent: str = ""
    """Id of the run that it is a part of; empty where it stands for itself."""
    experiment: str = "Default"
    """The name under which it is found with what belongs to it."""
    state: RunState = RunState.QUEUED
    code: str = ""
    notebook: str = ""
    """Path of the notebook it was asked from; empty where there is none."""
    cell_id: str = ""
    execution_count: int | None = None
    cluster: str = ""
    """The cluster's name; ``cluster_id`` tells two clusters of one name apart."""
    cluster_id: str = ""
    session: str = ""
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    deleted: float | None = None
    """When it was put away; ``nbcloud gc`` removes it some time later."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """What travelled to it: ``name``, ``hash``, ``bytes``, ``kind``."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """What it left: ``name``, ``kind`` (value or handle), ``bytes``, ``type``."""
    error: dict[str, Any] | None = None
    """``ename`` and ``evalue`` of what the code raised."""
    message: str = ""
    """The one sentence that explains a lost, cancelled or timed-out run."""
    resources: dict[str, Any] = field(default_factory=dict)
    """Asked for: ``cpus``, ``memory``, ``gpus``, …"""
    used: dict[str, Any] = field(default_factory=dict)
    """Measured: ``peak_memory``, ``cpu_seconds``, …"""
    tags: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git: dict[str, Any] | None = None
    masked: bool = False
    """Whether there were secrets in its code, or in the notebook that was kept with it."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Hashes of what else it takes to run it again: see `nbcloud.runs.provenance`."""
    host: str = ""
    worker: str = ""
    exit_info: dict[str, Any] | None = None
    """How its kernel ended, where it did: ``code``, ``signal``."""
    messages: int = 0
    """Number of the last journal message in the record; 0 before the end or without any."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of a document that this nbcloud doesn't know, kept as they are."""

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has been running until now; None before it started."""
        if self.started is None:
            return None
        return max(0.0, (time.time() if self.finished is None else self.finished) - self.started)

    def changed(self, **changes: Any) -> Self:
        """A copy with ``changes``.

        Raises
        ------
        UsageError
            For a field that a run doesn't have, a new ``id``, or a state that can't follow the present one.
        """
        for name in changes:
            if name not in _FIELDS:
                near = difflib.get_close_matches(name, _FIELDS, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(_FIELDS)}."
                raise UsageError(f"A run has no field {name!r}.", hint)
        if changes.get("id", self.id) != self.id:
            raise UsageError(f"The id of run {self.id} can't change.", "Begin a new run instead.")
        if "state" in changes:
            changes["state"] = self._next_state(changes["state"])
        return dataclasses.replace(self, **changes)

    def _next_state(self, wanted: str) -> RunState:
        try:
            state = RunState(wanted)
        except ValueError:
            raise UsageError(
                f"{wanted!r} is not a state of a run.", f"There are: {', '.join(RunState)}."
            ) from None
        if not self.state.may_become(state):
            allowed = ", ".join(s for s in RunState if s in _NEXT[self.state])
            hint = f"From there it may become: {allowed}." if allowed else "Begin a new run instead."
            raise UsageError(f"Run {self.id} is {self.state} and can't become {state}.", hint)
        return state

    def to_json(self) -> dict[str, Any]:
        """The run document: plain values, ready for ``json.dumps``."""
        document: dict[str, Any] = {"format": FORMAT}
        document |= {name: getattr(self, name) for name in _FIELDS if name != "extra"}
        document["state"] = self.state.value
        return self.extra | document

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | bytes) -> Self:
        """The run of a document.

        Raises
        ------
        StoreError
            When it isn't the document of a run, or has a state that this nbcloud doesn't know.
        """
        try:
            values = dict(json.loads(document) if isinstance(document, (str, bytes)) else document)
            known = {name: values.pop(name) for name in _FIELDS if name in values and name != "extra"}
            known["state"] = RunState(known["state"])
            if not is_run_id(known["id"]):
                raise ValueError(f"bad id {known['id']!r}")
            kinds = _kinds()
            for name, value in known.items():
                fits = isinstance(value, kinds[name]) and (type(value) is not bool or bool in kinds[name])
                if not fits or (isinstance(value, int | float) and not abs(value) < _MOST):  # nor is NaN
                    raise ValueError(f"{name} is {value!r}")
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"This is not a run document that nbcloud can read ({error}).",
                "A newer nbcloud may have written it: pip install -U nbcloud.",
            ) from error
        values.pop("format", None)
        known["extra"] = values
        return cls(**known)


_FIELDS = tuple(f.name for f in dataclasses.fields(Run))
_MOST = 2.0**63
"""Above all numbers that a database takes."""


@cache
def _kinds() -> dict[str, tuple[type, ...]]:
    """What each field may be, as JSON has it."""
    found = {}
    for name, hint in typing.get_type_hints(Run).items():
        choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = [typing.get_origin(each) or each for each in choices]
        found[name] = (*kinds, int) if float in kinds else tuple(kinds)
    return found


@cache
def _versions() -> dict[str, str]:
    import platform  # these two take longer to import than all the rest
    from importlib import metadata

    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("nbcloud", "ipython", "ipykernel", "dask", "distributed", "cloudpickle"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment_facts() -> dict[str, str]:
    """Versions of Python, of the system and of the packages that matter to a run, read once a process."""
    return dict(_versions())


_GIT_SECONDS = 5.0
_git_cache: dict[str, tuple[float, dict[str, Any] | None]] = {}


def git_facts(cwd: str | Path) -> dict[str, Any] | None:
    """Commit, branch and whether tracked files differ, for the git work tree that holds ``cwd``.

    Never raises and takes 2 s at most; an answer is kept for 5 s. It starts a process: call it from a
    thread where a cell waits.

    Returns
    -------
    dict or None
        ``commit`` (None before the first one), ``branch`` (None when detached), ``dirty``; None outside of
        git or when git doesn't answer.
    """
    key = str(cwd)
    now = time.monotonic()
    known = _git_cache.get(key)
    if known is None or now - known[0] > _GIT_SECONDS:
        if len(_git_cache) > 100:
            _git_cache.clear()
        known = _git_cache[key] = (time.monotonic(), _ask_git(key))
    return None if known[1] is None else dict(known[1])


def _ask_git(cwd: str) -> dict[str, Any] | None:
    import subprocess

    # fsmonitor runs a program that the repository names; optional locks would disturb the user's own git.
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "status"]
    command += ["--porcelain=v2", "--branch", "--untracked-files=no"]
    # A hook of an outer git leaves these set, and they would win over the directory.
    env = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        answer = subprocess.run(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=2, check=True
        ).stdout.decode(errors="replace")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    headers = dict(line[2:].split(" ", 1) for line in answer.splitlines() if line.startswith("# branch."))
    commit, branch = headers.get("branch.oid"), headers.get("branch.head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("#") for line in answer.splitlines()),
    }

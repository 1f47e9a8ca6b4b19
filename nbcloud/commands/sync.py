"""``sync``: the packages of this process beside those of a cluster's workers."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys

from nbcloud.clusters import connect as clusters
from nbcloud.clusters import environment
from nbcloud.clusters.base import ClusterInfo, Progress
from nbcloud.commands.answers import Answer
from nbcloud.errors import ClusterError
from nbcloud.wording import counted


def sync(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Compare packages, and install what is missing there when asked to."""
    info, which = clusters.meant(arguments.cluster)
    progress(f"asking {info.name!r} for its packages")
    mine = environment.here(None)
    compared = set(mine.packages) if arguments.all else _imported() & set(mine.packages)
    sides = _workers(info)
    rows = _differing(mine, sides, compared)
    missing = sorted({row["package"] for row in rows if not row["there"]})
    if arguments.install and missing:
        wanted = [f"{name}=={mine.packages[name]}" for name in missing]
        progress(f"installing {', '.join(wanted)} on {counted(len(sides), 'worker')}")
        _install(info, wanted)
        rows = _differing(mine, _workers(info), compared)
        return _answer(info, rows, _both(which, _installed(info, wanted)))
    hint = ""
    if missing:
        hint = f"To install what is missing there: %cloud sync {info.name} --install"
        hint += " --all" if arguments.all else ""
    return _answer(info, rows, _both(which, hint))


def _workers(info: ClusterInfo) -> dict[str, environment.Facts]:
    sides = environment.there(info, None)
    del sides["scheduler"]
    if not sides:
        raise ClusterError(f"The cluster {info.name!r} has no worker to compare with.", "See: %cloud status")
    return sides


def _imported() -> set[str]:
    """Distributions of which something is imported here."""
    owners = importlib.metadata.packages_distributions()
    tops = {name.partition(".")[0] for name in sys.modules}
    return {environment.normal(owner) for top in tops for owner in owners.get(top, ())}


def _differing(
    mine: environment.Facts, sides: dict[str, environment.Facts], compared: set[str]
) -> list[dict[str, str]]:
    """Packages that are not the same everywhere; Python first."""
    rows = {}
    for facts in sides.values():
        if facts.python != mine.python:
            rows["Python", facts.python] = {"package": "Python", "here": mine.python, "there": facts.python}
        for name in sorted(compared):
            there = facts.packages.get(name, "")
            if there != mine.packages[name] and name != "nbcloud":  # which goes along by itself
                rows[name, there] = {"package": name, "here": mine.packages[name], "there": there}
    return list(rows.values())


def _install(info: ClusterInfo, wanted: list[str]) -> None:
    failures = environment.install(info, wanted)
    if failures:
        worker, said = next(iter(failures.items()))
        raise ClusterError(f"pip failed on {counted(len(failures), 'worker')}, on {worker}:\n{said}")


def _installed(info: ClusterInfo, wanted: list[str]) -> str:
    text = f"Installed there: {', '.join(wanted)}."
    if info.kind == "kubernetes":
        text += " Workers that come later lack it: better have it in the image."
    return text


def _answer(info: ClusterInfo, rows: list[dict[str, str]], text: str) -> Answer:
    table = [[row["package"], row["here"], row["there"] or "missing"] for row in rows]
    if not rows:
        text = _both(text, f"The workers of {info.name!r} have the same packages.")
    return Answer(text, ["package", "here", "there"], table, rows)


def _both(first: str, second: str) -> str:
    return f"{first} {second}".strip()

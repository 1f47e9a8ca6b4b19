"""The comparison as a table of ratios, and as one JSON file."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import psutil

from benchmarks.contenders import CONTENDERS
from benchmarks.rows import ROWS

RESULTS = Path(__file__).parent / "results"
SUBJECT = "nbcloud"
BASELINE = "bare kernel"
ECHO = "Dask comm echo"


Samples = dict[str, dict[str, list[float]]]
"""By contender and figure."""


@dataclass
class Results:
    """What was measured: samples by row, contender and figure; and what could not be, and why."""

    samples: dict[str, Samples] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    echo: list[float] = field(default_factory=list)
    complete: bool = False

    def add(self, row: str, contender: str, figures: dict[str, float]) -> None:
        of_contender = self.samples.setdefault(row, {}).setdefault(contender, {})
        for name, value in figures.items():
            of_contender.setdefault(name, []).append(value)

    def miss(self, row: str, contender: str, reason: str) -> None:
        self.missing.setdefault(row, {})[contender] = reason

    def medians(self, row: str, figure: str) -> dict[str, float]:
        return {
            contender: median(figures[figure])
            for contender, figures in self.samples.get(row, {}).items()
            if figure in figures
        }


def show(results: Results, rows: list[str], contenders: list[str]) -> None:
    """Print one table for each row."""
    for row in rows:
        measured = results.samples.get(row, {})
        missing = results.missing.get(row, {})
        print(f"\n{row}: {ROWS[row].title}")
        _show_table([_titles(measured), *(_line(name, measured) for name in contenders if name in measured)])
        for name in contenders:
            # Measured until it failed: then both the figures and the reason are shown.
            if name in missing:
                print(f"  {name}  n/a: {missing[name]}")
        if row == "noop":
            _show_floor(results)


def _base(measured: Samples) -> str:
    return next((name for name in (SUBJECT, BASELINE) if name in measured), "")


def _extra(measured: Samples) -> list[str]:
    return list(dict.fromkeys(name for figures in measured.values() for name in figures if name != "ms"))


def _titles(measured: Samples) -> list[str]:
    return ["", f"× {_base(measured)}" if measured else "", "ms", "IQR", *_extra(measured), ""]


def _line(contender: str, measured: Samples) -> list[str]:
    figures = measured[contender]
    times = figures["ms"]
    low, _, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else (times[0],) * 3
    base = _base(measured)
    ratio = f"{median(times) / median(measured[base]['ms']):.2f}" if base else ""
    more = [f"{median(figures[name]):.2f}" if name in figures else "" for name in _extra(measured)]
    return [
        contender,
        ratio,
        f"{median(times):.1f}",
        f"{low:.1f}–{high:.1f}",
        *more,
        CONTENDERS[contender].note,
    ]


def _show_table(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *figures, note in lines:
        middle = "".join(
            f"{figure:>{width + 2}}" for figure, width in zip(figures, widths[1:-1], strict=True)
        )
        print(f"  {first:<{widths[0]}}{middle}  {note}".rstrip())


def floor(results: Results) -> dict[str, float]:
    """The floor under a no-op cell, and how far above it nbcloud is, in ms."""
    times = results.medians("noop", "ms")
    if not results.echo or BASELINE not in times:
        return {}
    figures = {"comm echo": median(results.echo), BASELINE: times[BASELINE]}
    figures["floor"] = figures["comm echo"] + figures[BASELINE]
    if SUBJECT in times:
        figures[f"{SUBJECT} above the floor"] = times[SUBJECT] - figures["floor"]
    return figures


def _show_floor(results: Results) -> None:
    figures = floor(results)
    if figures:
        print(f"  floor: {ECHO} over TLS {figures['comm echo']:.2f} + {BASELINE} = {figures['floor']:.2f} ms")
    if above := figures.get(f"{SUBJECT} above the floor"):
        print(f"  {SUBJECT} is {above:.2f} ms above it (the goal: at most 2)")


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "load before": os.getloadavg(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def keep(results: Results, versions: dict[str, dict[str, str]], facts: dict[str, object]) -> Path:
    """Write all of it to ``benchmarks/results/``."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    file = RESULTS / f"dispatch-{now:%Y%m%dT%H%M%SZ}.json"
    content = {
        "date": now.isoformat(timespec="seconds"),
        "complete": results.complete,
        "machine": facts,
        "load after": os.getloadavg(),
        "versions": versions,
        "floor": floor(results),
        "medians": {
            row: {figure: results.medians(row, figure) for figure in ["ms", *_extra(measured)]}
            for row, measured in results.samples.items()
        },
        "missing": results.missing,
        "samples": results.samples,
        "echo samples": results.echo,
    }
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(file)
    return file

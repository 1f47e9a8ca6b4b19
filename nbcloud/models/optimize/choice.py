"""The forms of a model side by side, and which of them fits what was asked."""

from __future__ import annotations

import html
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from nbcloud.config import parse_bytes, parse_seconds
from nbcloud.errors import ModelError, UsageError
from nbcloud.models.optimize.measure import Measured
from nbcloud.models.optimize.targets import Target
from nbcloud.wording import size_text

_COLUMNS = ("form", "size", "median", "p99", "memory", "metric", "agreement", "")


@dataclass(frozen=True)
class Limits:
    """What a form may cost.

    Parameters
    ----------
    max_drop : float, optional
        Of the metric, below full precision; of the agreement where there is no metric.
    max_size : int, optional
        Bytes.
    max_latency : float, optional
        Median seconds for one row.

    Raises
    ------
    UsageError
        When one is no number, or below zero.
    """

    max_drop: float | None = None
    max_size: int | None = None
    max_latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (isinstance(value, Real) and float(value) >= 0):
                raise UsageError(f"{name}={value!r} is no limit.", "Give a number that is not below zero.")

    @classmethod
    def read(
        cls, max_drop: float | None, max_size: int | str | None, max_latency: float | str | None
    ) -> Limits:
        """The limits as people write them: ``"5MiB"``, ``"2ms"``."""
        if isinstance(max_size, str):
            max_size = parse_bytes(max_size)
        if isinstance(max_latency, str):
            max_latency = parse_seconds(max_latency)
        return cls(max_drop, max_size, max_latency)


class Choice:
    """What was measured, and the form that fits best: the fastest of those within the limits.

    Attributes
    ----------
    measured : list of Measured
        Full precision first.
    skipped : dict
        Forms that could not be made or did not run, with the reason.
    variant : str
        What the best one is called in the registry, where it was kept there.
    """

    def __init__(
        self, measured: list[Measured], skipped: dict[str, str], target: Target, limits: Limits, *, rows: int
    ) -> None:
        self.measured = measured
        self.skipped = skipped
        self.target = target
        self.limits = limits
        self.variant = ""
        self.bundler: Callable[..., Any] | None = None
        self._rows = rows

    @property
    def full(self) -> Measured:
        """Full precision."""
        return self.measured[0]

    @property
    def fitting(self) -> list[Measured]:
        """The forms within the limits, fastest first."""
        return sorted(
            (each for each in self.measured if not self._excess(each)), key=lambda each: each.median
        )

    @property
    def best(self) -> Measured:
        """The fastest form within the limits.

        Raises
        ------
        ModelError
            When none is; says which comes nearest, and by what it misses.
        """
        if self.fitting:
            return self.fitting[0]
        nearest = min(self.measured, key=lambda each: max(over for _, over in self._excess(each).values()))
        misses = ", ".join(text for text, _ in self._excess(nearest).values())
        raise ModelError(
            f"No form of the model is within the limits; {nearest.way} comes nearest: {misses}.",
            "Allow more, give more or other calibration data, or train a smaller model.",
        )

    @property
    def pareto(self) -> list[Measured]:
        """The forms than which none is better in size, latency and quality at once."""
        return [each for each in self.measured if not any(_beats(other, each) for other in self.measured)]

    def drop(self, form: Measured) -> float:
        """How much worse than full precision it is."""
        if form.accuracy is None or self.full.accuracy is None:
            return 1.0 - form.agreement
        return self.full.accuracy - form.accuracy

    def _excess(self, form: Measured) -> dict[str, tuple[str, float]]:
        """By which limits it is missed: in words, and how often over."""
        limits, found = self.limits, {}
        if limits.max_drop is not None and (drop := self.drop(form)) > limits.max_drop:
            found["drop"] = f"{drop:.4g} worse, not {limits.max_drop:g}", drop / max(limits.max_drop, 1e-6)
        if limits.max_size is not None and form.size > limits.max_size:
            text = f"{size_text(form.size)}, not {size_text(limits.max_size)}"
            found["size"] = text, form.size / max(1, limits.max_size)
        if limits.max_latency is not None and form.median > limits.max_latency:
            text = f"{_time(form.median)}, not {_time(limits.max_latency)}"
            found["latency"] = text, form.median / max(limits.max_latency, 1e-9)
        return found

    def rows(self) -> list[list[str]]:
        """The table's cells, as text."""
        best = self.fitting[0] if self.fitting else None
        made = []
        for form in self.measured:
            over = self._excess(form)
            mark = "chosen" if form is best else "; ".join(text for text, _ in over.values())
            made.append(
                [
                    form.way,
                    size_text(form.size),
                    _time(form.median),
                    _time(form.p99),
                    size_text(max(0, form.memory)),
                    "" if form.accuracy is None else f"{form.accuracy:.4f}",
                    f"{form.agreement:.4f}",
                    mark,
                ]
            )
        made += [[way, "", "", "", "", "", "", why] for way, why in self.skipped.items()]
        return made

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        return _COLUMNS

    def to_json(self) -> dict[str, Any]:
        """Plain values: what was measured of each form, in seconds and bytes."""
        best = self.fitting[0] if self.fitting else None
        return {
            "target": self.target.name,
            "best": None if best is None else best.way,
            "variant": self.variant,
            "rows": self._rows,
            "forms": [
                {"form": form.way, **form.facts(), "drop": self.drop(form), "fits": form in self.fitting}
                for form in self.measured
            ],
            "skipped": self.skipped,
        }

    def note(self) -> str:
        """How it was measured, in words."""
        threads = (
            f"{self.target.threads or os.cpu_count()} threads" if self.target.threads != 1 else "1 thread"
        )
        providers = ", ".join(self.full.providers)
        text = (
            f"For {self.target.name}; measured here ({platform.machine()}, {threads}, {providers}), "
            f"one row at a time, on {self._rows} rows."
        )
        kept = f"Kept as {self.variant}." if self.variant else ""
        return " ".join(part for part in (text, self.target.note, kept) if part)

    def __str__(self) -> str:
        lines = [list(_COLUMNS), *self.rows()]
        widths = [max(len(line[place]) for line in lines) for place in range(len(_COLUMNS))]
        table = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join([*table, self.note()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in _COLUMNS)
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for row in self.rows()
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{table}<p>{html.escape(self.note())}</p>"

    def bundle(self, path: Path | str, *, sign: Path | str | None = None, **facts: Any) -> Any:
        """Bundle the form that was kept; the first rows of the data are its golden samples.

        See `nbcloud.models.registry.Version.bundle`.

        Raises
        ------
        UsageError
            When none was kept.
        """
        if self.bundler is None:
            raise UsageError("No form was kept, so there is none to bundle.", "Call optimize with keep=True.")
        return self.bundler(path, sign=sign, **facts)

    def plot(self) -> Any:
        """Latency against what is lost, the area of each point its size; the front joined by a line."""
        from nbcloud.extras import check

        check("matplotlib", "to plot forms of a model")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(6, 4))
        most = max(form.size for form in self.measured)
        for form in self.measured:
            on_front = form in self.pareto
            axes.scatter(
                form.median * 1e3,
                self.drop(form),
                s=40 + 400 * form.size / most,
                alpha=0.7,
                color="tab:blue" if on_front else "tab:gray",
            )
            axes.annotate(
                f"{form.way}\n{size_text(form.size)}", (form.median * 1e3, self.drop(form)), fontsize=8
            )
        front = sorted(self.pareto, key=lambda form: form.median)
        axes.plot([form.median * 1e3 for form in front], [self.drop(form) for form in front], lw=1)
        axes.set_xlabel("median latency of one row, ms")
        axes.set_ylabel("drop of the metric" if self.full.accuracy is not None else "disagreement with fp32")
        axes.set_title(f"Forms for {self.target.name} (area: size)")
        figure.tight_layout()
        return figure


def _beats(one: Measured, other: Measured) -> bool:
    better = (one.size, one.median, -_quality(one)), (other.size, other.median, -_quality(other))
    return all(a <= b for a, b in zip(*better, strict=True)) and better[0] != better[1]


def _quality(form: Measured) -> float:
    return form.agreement if form.accuracy is None else form.accuracy


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.1f} µs"

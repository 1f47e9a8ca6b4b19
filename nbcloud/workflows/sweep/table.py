"""What the members of a sweep came to, as one table: for people, spreadsheets and pandas."""

from __future__ import annotations

import base64
import csv
import html
import importlib.util
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RunNotFound, UsageError
from nbcloud.extras import check
from nbcloud.runs.files import write_atomically
from nbcloud.runs.store import Store
from nbcloud.runs.tracked import Tracked

_FIXED = ("member", "state", "seconds", "cost", "error", "run", "notebook")


@dataclass(frozen=True)
class Ended:
    """What one member came to.

    Attributes
    ----------
    number : int
    parameters : mapping
    state : str
    seconds : float, optional
    error : str
    run : str
        Its id; empty where there is none.
    notebook : str
        Path of its output notebook; empty where there is none.
    """

    number: int
    parameters: Mapping[str, Any]
    state: str
    seconds: float | None
    error: str
    run: str
    notebook: str = ""


class Table:
    """One row for each member of a sweep.

    Parameters
    ----------
    title : str
    members : sequence of Ended
    mode : str
        Of a search, whether the lowest (``"min"``) or the highest (``"max"``) was looked for.

    Attributes
    ----------
    rows : list of dict
        ``member``, then its parameters, what it logged and recorded (by the keys alone where these are unlike
        all others, else as ``metrics.KEY`` and ``records.NAME``), ``state``, ``seconds``, ``error``, ``run``
        and, of a swept notebook, ``notebook``; ``cost`` where the cluster's profile has a price.
    """

    def __init__(self, title: str, members: Sequence[Ended], mode: str = "") -> None:
        self.title = title
        self._mode = mode
        with open_store() as store:
            logged = store.tracked(each.run for each in members if each.run)
            costs = [_cost(store, each.run) for each in members]
        self.parameters = list(dict.fromkeys(key for member in members for key in member.parameters))
        told = [_told(logged.get(each.run, Tracked())) for each in members]
        logged_keys = sorted({key for each in told for key in each})
        names = {key: key if self._is_free(key) else f"metrics.{key}" for key in logged_keys}
        self.metrics = [*names.values()]
        self.rows: list[dict[str, Any]] = [
            dict[str, Any](member=end.number)
            | {key: end.parameters.get(key) for key in self.parameters}
            | {names[key]: each.get(key) for key in names}
            | {"state": str(end.state), "seconds": end.seconds}
            | ({"cost": cost} if any(costs) else {})
            | {"error": end.error, "run": end.run}
            | ({"notebook": end.notebook} if end.notebook else {})
            for end, each, cost in zip(members, told, costs, strict=True)
        ]

    def _is_free(self, key: str) -> bool:
        return key not in self.parameters and key not in _FIXED

    def _repr_html_(self) -> str:
        return self._table()

    def __repr__(self) -> str:
        return f"<{len(self.rows)} members: {summary(self.counts())}>"

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self.rows[0]) if self.rows else []

    def counts(self) -> dict[str, int]:
        """How many members are in each state."""
        states = [row["state"] for row in self.rows]
        return {state: states.count(state) for state in dict.fromkeys(states)}

    def best(self, metric: str, mode: str = "min") -> dict[str, Any]:
        """The row with the lowest (``"min"``) or highest (``"max"``) value of a metric: see `ranked`."""
        return self.ranked(metric, mode)[0]

    def ranked(self, metric: str, mode: str = "min") -> list[dict[str, Any]]:
        """All rows, that with the lowest (``"min"``) or highest (``"max"``) value of a metric first.

        Raises
        ------
        UsageError
            When no member has it.
        """
        if mode not in {"min", "max"}:
            raise UsageError(f"mode={mode!r}: it must be 'min' or 'max'.")
        found = [row for row in self.rows if _is_number(row.get(metric))]
        if not found:
            if not self.metrics:
                raise UsageError(
                    "No member has logged anything yet.",
                    f"In the notebook: nbcloud.log_metric({metric!r}, …)",
                )
            raise UsageError(
                f"No member has logged a metric {metric!r}; there are: {', '.join(self.metrics)}."
            )
        found.sort(key=lambda row: row[metric], reverse=mode == "max")
        return [*found, *(row for row in self.rows if not _is_number(row.get(metric)))]

    def frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``."""
        check("pandas", "for a table of results as a DataFrame")
        import pandas

        return pandas.DataFrame(self.rows, columns=self.columns)

    def _uniform_frame(self) -> Any:
        """The rows with one type in each column, as Parquet wants it: a column of several is one of texts."""
        frame = self.frame()
        for column in frame.columns[[each.kind == "O" for each in frame.dtypes]]:
            present = [value for value in frame[column] if value is not None]
            if any(not isinstance(value, str) for value in present):
                texts = [None if value is None else _plain_text(value) for value in frame[column]]
                frame[column] = texts
        return frame

    def write(self, path: Path) -> None:
        """Write the table: ``.csv``, ``.parquet`` or ``.html``, by the file's name."""
        from nbcloud.workflows.notebook.manager import PUBLIC  # with papermill, which is slow to import

        match path.suffix:
            case ".csv":
                data = self._csv().encode()
            case ".html":
                data = self.to_html().encode()
            case ".parquet":
                check("pyarrow", "to write Parquet")
                buffer = io.BytesIO()
                self._uniform_frame().to_parquet(buffer)
                data = buffer.getvalue()
            case other:
                raise UsageError(
                    f"{path}: a table can't be written as {other!r}.", "Write .csv, .parquet or .html."
                )
        if not path.parent.is_dir():
            raise UsageError(
                f"There is no folder {path.parent} for {path.name}.", f"Type: mkdir -p {path.parent}"
            )
        write_atomically(path, data, sync=False, mode=PUBLIC)

    def _csv(self) -> str:
        text = io.StringIO()
        table = csv.DictWriter(text, self.columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue()

    def to_html(self) -> str:
        """A page with the table and, where matplotlib is there, a plot of each metric over each parameter."""
        plots = "".join(
            f'<img alt="{html.escape(title)}" src="data:image/png;base64,{picture}">'
            for title, picture in self._plots()
        )
        title = html.escape(f"{self.title}: {len(self.rows)} members")
        note = "Hollow: members that are not done." if plots and set(self.counts()) != {"done"} else ""
        return _PAGE.format(title=title, table=self._table(), plots=plots, note=note)

    def _table(self) -> str:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{''.join(map(self._cell, row, row.values()))}</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cell(self, column: str, value: Any) -> str:
        text = html.escape(_text(value))
        if column == "notebook":  # beside the table
            name = html.escape(Path(value).name)
            text = f'<a href="{name}">{name}</a>'
        return f"<td>{text}</td>"

    def _plots(self) -> list[tuple[str, str]]:
        # Of a search, whose members come one after the other, how it came along is what one looks at first.
        order = ["member"] if self._mode else []
        pairs = [(key, metric) for metric in self.metrics for key in [*order, *self.parameters]]
        if importlib.util.find_spec("matplotlib") is None:
            return []
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        found = []
        for key, metric in pairs:
            measured = [row for row in self.rows if _is_number(row[metric])]
            points = [(row[key], row[metric]) for row in measured]
            if len({str(x) for x, _ in points}) < 2:
                continue
            figure = Figure(figsize=(4, 3), layout="constrained")
            axes = figure.subplots()
            numbers = all(map(_is_number, (x for x, _ in points)))
            colors = ["C0" if row["state"] == "done" else "none" for row in measured]
            places = [x if numbers else _no_formula(str(x)) for x, _ in points]
            if key == "member":
                best = itertools.accumulate((y for _, y in points), max if self._mode == "max" else min)
                axes.step(places, [*best], where="post", color="C7")
            axes.scatter(places, [y for _, y in points], c=colors, edgecolors="C0")
            if all(isinstance(x, int) for x in places):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            values = [float(x or 0) for x, _ in points] if numbers else []
            if values and min(values) > 0 and max(values) >= 100 * min(values):
                axes.set_xscale("log")
            axes.set(xlabel=_no_formula(key), ylabel=_no_formula(metric))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=100)
            found.append((f"{metric} over {key}", base64.b64encode(buffer.getvalue()).decode()))
        return found


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .2em .6em; text-align: left; border-bottom: 1px solid #8885; white-space: nowrap }}
img {{ background: white; margin: 1em 1em 0 0 }}
</style>
<h1>{title}</h1>
{table}
{plots}
<p>{note}</p>
</html>
"""


def _told(logged: Tracked) -> dict[str, Any]:
    """Metrics, and recorded values that fit into a cell of a table."""
    values = {name: record["value"] for name, record in logged.records.items() if "value" in record}
    plain = {name: each for name, each in values.items() if isinstance(each, int | float | str | bool)}
    return {**plain, **logged.metrics}


def _cost(store: Store, run: str) -> float | None:
    try:
        return store.get(run).used.get("cost") if run else None
    except RunNotFound:
        return None


def _no_formula(text: str) -> str:
    """A text as matplotlib shows it as it is: what stands between dollars would be TeX, and may be none."""
    return text.replace("$", r"\$")


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def summary(counts: dict[str, int]) -> str:
    """How many members are in each state, in words."""
    return ", ".join(f"{count} {state}" for state, count in counts.items())

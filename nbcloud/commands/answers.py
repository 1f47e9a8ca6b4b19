"""What a command answers: for people a table or a sentence, for programs plain data."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nbcloud.clusters.base import ClusterInfo


@dataclass
class Answer:
    """The answer of one command.

    Attributes
    ----------
    text : str
        Sentences.
    columns, rows : lists
        A table; cells are text.
    data : object
        The same as plain data, for ``--json``.
    failed : bool
        Whether a shell is to end with 1.
    differs : bool
        Whether it is to end with 3: all went well, and is not as it was.
    """

    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    data: Any = field(default=None)
    failed: bool = False
    differs: bool = False

    def __str__(self) -> str:
        return "\n".join(part for part in (self._table(), self.text) if part)

    def _table(self) -> str:
        if not self.rows:
            return ""
        lines = [list(self.columns), *[list(row) for row in self.rows]]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, str]:
        bundle = {"text/plain": str(self)}
        if self.rows:
            head = "".join(
                f"<th style='text-align:left'>{html.escape(column)}</th>" for column in self.columns
            )
            body = "".join(
                "<tr>"
                + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row)
                + "</tr>"
                for row in self.rows
            )
            text = f"<p>{html.escape(self.text)}</p>" if self.text else ""
            bundle["text/html"] = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{text}"
        return bundle


def yaml_answer(made: Sequence[Any]) -> Answer:
    """Manifests, as ``kubectl apply`` takes them."""
    import yaml

    # By way of JSON: YAML would write what occurs twice as a reference.
    return Answer(yaml.dump_all(json.loads(json.dumps(made)), sort_keys=False).rstrip(), data=made)


def facts_of(info: ClusterInfo) -> dict[str, object]:
    """What may be told of a cluster, as plain data."""
    facts = asdict(info)
    del facts["tls"], facts["options"]
    return facts


def ago(then: float | None) -> str:
    """How long ago, for people: ``"3 min ago"``."""
    return "" if then is None else f"{duration(max(0.0, time.time() - then))} ago"


def duration(seconds: float | None) -> str:
    """A length of time for people: ``"2 h 5 min"``, ``"1.3 s"``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"

"""The filter language of runs, that of MLflow: ``metrics.loss < 0.3 and params.lr = 0.1``.

A filter is conditions joined by ``and``. What is compared is ``metrics.KEY`` (the latest value),
``params.KEY``, ``tags.KEY`` or ``attributes.NAME``; a key with other characters than letters, digits and
``_ . - /`` stands in double quotes or backticks. Nothing that was typed becomes a part of the SQL: keys and
values are its parameters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.runs.record import RunState, id_number, is_run_id

_EXAMPLE = "Write for example: metrics.loss < 0.3 and params.lr = 0.1 and tags.team = 'vision'"
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<name>[A-Za-z_]\w*(?:\.(?:[\w./-]+|"[^"]+"|`[^`]+`))?)
    |(?P<text>'[^']*'|"[^"]*")
    |(?P<operator><=|>=|!=|<>|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_ENTITIES = {
    "metric": "metrics",
    "metrics": "metrics",
    "param": "params",
    "params": "params",
    "parameter": "params",
    "parameters": "params",
    "tag": "tags",
    "tags": "tags",
    "attribute": "attributes",
    "attributes": "attributes",
    "attr": "attributes",
    "run": "attributes",
}
_TABLES = {"metrics": "latest", "params": "params", "tags": "tags"}
_ATTRIBUTES = {
    "id": "number",
    "run_id": "number",
    "name": "name",
    "run_name": "name",
    "state": "state",
    "status": "state",
    "kind": "kind",
    "notebook": "notebook",
    "session": "session",
    "cluster": "cluster",
    "parent": "parent",
    "experiment": "experiment",
    "experiment_name": "experiment",
    "created": "created",
    "start_time": "created",
    "finished": "finished",
    "end_time": "finished",
}
_STATES = {"finished": "done", "killed": "cancelled", "scheduled": "queued"}
"""MLflow's words for states, where they are others."""
_TIMES = ("created", "finished")


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes
    ----------
    table : str
        Where its rows are, each with ``run`` and ``key``; empty for a column of the runs themselves.
    key : str
    test : str
        SQL about a row, whose name it has as ``%s``.
    values : tuple
        What stands for the question marks in ``test``.
    absent : bool
        Whether there must be no such row.
    """

    table: str
    key: str
    test: str
    values: tuple[Any, ...] = ()
    absent: bool = False

    def about(self, row: str) -> str:
        """The test, of the row of this name."""
        return self.test.replace("%s", row)


def parse(text: str) -> list[Condition]:
    """The conditions of a filter.

    Raises
    ------
    UsageError
        When it can't be read; says where.
    """
    return _Parser(text).conditions()


def parse_order(text: str) -> tuple[str, str, bool]:
    """Table, key and whether it is descending, of ``metrics.loss``, ``params.lr desc`` or ``created``."""
    words = text.rsplit(maxsplit=1)
    descending = len(words) == 2 and words[1].lower() == "desc"
    what = words[0] if len(words) == 2 and words[1].lower() in ("asc", "desc") else text.strip()
    reader = _Parser(what)
    kind, key = reader.subject()
    if reader.kind != "end" or kind == "tags":
        raise UsageError(
            f"Runs can't be ordered by {text!r}.",
            "Write for example: metrics.loss, or: metrics.accuracy desc",
        )
    return _TABLES.get(kind, ""), key, descending


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self.kind = self.value = ""
        self._tokens = self._read()
        self._next()

    def _read(self) -> Iterator[tuple[str, str, int]]:
        place, end = 0, len(self._text.rstrip())
        while place < end:
            found = _TOKEN.match(self._text, place)
            if found is None:
                raise self._refusal(place, "nothing of a filter begins so")
            yield str(found.lastgroup), found[str(found.lastgroup)], found.start(str(found.lastgroup))
            place = found.end()
        while True:
            yield "end", "", end

    def _next(self) -> str:
        taken = self.value
        self.kind, self.value, self.place = next(self._tokens)
        return taken

    def _refusal(self, place: int, why: str, hint: str = _EXAMPLE) -> UsageError:
        there = self._text[place:].strip()
        where = f"at {there!r}" if there else "at its end"
        return UsageError(f"The filter {self._text!r} can't be read {where}: {why}.", hint)

    def _word(self, *words: str) -> bool:
        """Whether the next token is one of these words; then it is taken."""
        if self.kind != "name" or self.value.lower() not in words:
            return False
        self._next()
        return True

    def conditions(self) -> list[Condition]:
        found = [self._condition()]
        while self._word("and"):
            found.append(self._condition())
        if self.kind == "name" and self.value.lower() == "or":
            raise self._refusal(self.place, "conditions are joined by and", "Search once for each of them.")
        if self.kind != "end":
            raise self._refusal(self.place, "here must be and, or the end")
        return found

    def subject(self) -> tuple[str, str]:
        """What is compared: the kind and the key, or the column of an attribute."""
        if self.kind != "name":
            raise self._refusal(self.place, "here must be what is compared")
        place = self.place
        entity, dot, key = self._next().partition(".")
        if not dot:
            entity, key = "attributes", entity
        kind = _ENTITIES.get(entity.lower())
        key = key.strip('"`')
        if kind is None:
            near = difflib.get_close_matches(entity, _ENTITIES, n=1)
            hint = f"Did you mean {_ENTITIES[near[0]]}.{key}?" if near else _EXAMPLE
            raise self._refusal(place, f"runs have metrics, params, tags, attributes, no {entity!r}", hint)
        if kind == "attributes":
            if key.lower() not in _ATTRIBUTES:
                near = difflib.get_close_matches(key, _ATTRIBUTES, n=1)
                others = f"metrics.{key} or params.{key}?"
                hint = f"Did you mean {', '.join([*near, others])}"
                raise self._refusal(place, f"runs have no attribute {key!r}", hint)
            key = _ATTRIBUTES[key.lower()]
        return kind, key

    def _condition(self) -> Condition:
        kind, key = self.subject()
        table = _TABLES.get(kind, "")
        if self._word("is"):
            absent = not self._word("not")
            if not self._word("null"):
                raise self._refusal(self.place, "behind is must be null, or not null")
            if not table:
                return Condition("", key, f"%s.{key} IS {'' if absent else 'NOT '}NULL")
            return Condition(table, key, "1", absent=absent)
        place = self.place
        operator = self._operator()
        several = operator.endswith("IN")
        typed = self._several() if several else [self._literal()]
        column, values = self._column(kind, key, typed, place)
        if operator == "GLOB":
            values = [_glob(str(value)) for value in values]
        marks = f"({', '.join('?' * len(values))})" if several else "?"
        return Condition(table, key, f"{column} {operator} {marks}", tuple(values))

    def _operator(self) -> str:
        """The next operator, as SQL has it."""
        if self.kind == "operator" and self.value not in "(),":
            typed = self._next()
            return {"==": "=", "<>": "!="}.get(typed, typed)
        for word, sql in (("like", "GLOB"), ("ilike", "LIKE"), ("in", "IN")):
            if self._word(word):
                return sql
        if self._word("not"):
            if self._word("in"):
                return "NOT IN"
            raise self._refusal(self.place, "behind not must be in")
        raise self._refusal(
            self.place, "here must be =, !=, <, <=, >, >=, like, ilike, in, not in or is null"
        )

    def _several(self) -> list[Any]:
        if self.value != "(":
            raise self._refusal(self.place, "behind in must be values in parentheses: ('a', 'b')")
        found = []
        while self.value in ("(", ","):
            self._next()
            found.append(self._literal())
        if self.value != ")":
            raise self._refusal(self.place, "the parenthesis is not closed")
        self._next()
        return found

    def _literal(self) -> Any:
        """A number, a text, or a boolean."""
        if self.kind == "number":
            return float(self._next())
        if self.kind == "text":
            return self._next()[1:-1]
        if self.kind == "name" and self.value.lower() in ("true", "false"):
            return self._next().lower() == "true"
        raise self._refusal(self.place, "here must be a value: a number, or a text in quotation marks")

    def _column(self, kind: str, key: str, values: list[Any], place: int) -> tuple[str, list[Any]]:
        """What is compared, as SQL, and the values as they are there."""
        texts = [_text(value) for value in values]
        if kind == "metrics":
            if not all(isinstance(value, float) for value in values):
                raise self._refusal(place, "a metric is compared with a number")
            return "%s.value", values
        if kind == "params":
            numbers = all(isinstance(value, float) for value in values)
            return ("%s.number", values) if numbers else ("%s.text", texts)
        if kind == "tags":
            return "%s.value", texts
        if key == "number":
            if not all(is_run_id(text) for text in texts):
                raise self._refusal(place, "that is not the whole id of a run")
            return "%s.number", [id_number(text) for text in texts]
        if key == "state":
            states = [_STATES.get(text.lower(), text.lower()) for text in texts]
            if not set(states) <= set(RunState):
                raise self._refusal(place, "that is no state of a run", f"There are: {', '.join(RunState)}.")
            return "%s.state", states
        if key in _TIMES:
            try:
                return f"%s.{key}", [_time(value) for value in values]
            except ValueError:
                why = "a time is unix seconds, or a text such as '2026-01-31'"
                raise self._refusal(place, why) from None
        return f"%s.{key}", texts


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _time(value: Any) -> float:
    return value if isinstance(value, float) else datetime.fromisoformat(str(value)).timestamp()


def _glob(pattern: str) -> str:
    """A pattern of SQL's ``LIKE`` for ``GLOB``, which tells capitals from small letters."""
    signs = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(signs.get(sign, sign) for sign in pattern)

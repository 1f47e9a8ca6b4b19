"""Secrets never reach a record or a log in clear: their values are replaced by ``***``.

A value is found as it is, and in the forms in which programs usually show it: escaped for JSON, Python,
HTML or a URL, and in base64, also inside the base64 of a longer text (an Authorization header).
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
MINIMUM_LENGTH = 6
"""Shorter values are left alone: they occur by chance everywhere, and masking them would wreck the outputs
without hiding much. ``Redactor.ignored`` names them, so that the caller can say so."""


class Redactor:
    """Replaces the values of secrets in text.

    ``text`` and ``json`` keep no state and may be called from any thread. ``stream`` and ``flush`` belong to
    one stream of text; ``fork`` gives another stream its own at no cost.

    Parameters
    ----------
    secrets : mapping of str to str
        Names and values. Of a value, leading and trailing white space doesn't count.
    """

    def __init__(self, secrets: Mapping[str, str] | None = None) -> None:
        values = {name: value.strip() for name, value in (secrets or {}).items()}
        self.ignored = tuple(name for name, value in values.items() if len(value) < MINIMUM_LENGTH)
        forms = {form for value in values.values() if len(value) >= MINIMUM_LENGTH for form in _forms(value)}
        # Longest first: where one secret begins another, the whole of the longer one must go.
        self._longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._sorted = sorted(forms)
        self._heads = sorted({form[:MINIMUM_LENGTH] for form in forms})
        self._pattern = re.compile("|".join(map(re.escape, self._longest_first)))
        self._begin = _beginnings(forms)
        self._held = ""

    def __bool__(self) -> bool:
        return bool(self._sorted)

    def fork(self) -> Self:
        """A redactor of the same secrets for another stream of text."""
        twin = object.__new__(type(self))
        twin.__dict__ |= self.__dict__ | {"_held": ""}
        return twin

    def text(self, text: str) -> str:
        """``text`` without secrets."""
        return self._pattern.sub(MASK, text) if self._occurs(text) else text

    def json(self, value: Any) -> Any:
        """A value of JSON types without secrets in its strings and keys."""
        if not self._sorted:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.json(key): self.json(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.json(item) for item in value]
        return value

    def stream(self, chunk: str) -> str:
        """The next piece of a stream without secrets, also those that lie across pieces.

        Only an end that may be the beginning of a secret is held back, until the next piece or ``flush``.
        """
        if not self._sorted:
            return chunk
        text = self._held + chunk
        if not self._begin.search(text):  # as nearly always
            self._held = ""
            return text
        keep = self._open_end(text, 0)
        if self._occurs(text):
            for match in self._pattern.finditer(text):
                if match.start() >= keep:
                    break
                if match.end() > keep:
                    keep = self._open_end(text, match.end())
        self._held = text[keep:]
        return self.text(text[:keep])

    def flush(self) -> str:
        """What ``stream`` still holds back; call it when the stream ends or pauses."""
        held, self._held = self._held, ""
        return self.text(held)

    def _occurs(self, text: str) -> bool:
        # A search for each form is many times faster than one regular expression of them all (measured:
        # 0.12 ms per MB and form), and nearly all text holds no secret.
        return any(form in text for form in self._sorted)

    def _open_end(self, text: str, start: int) -> int:
        """Where the earliest end of ``text`` begins, from ``start``, that a secret could continue."""
        first = max(start, len(text) - len(self._longest_first[0]) + 1)
        for place in self._candidates(text, first):
            end = text[place:]
            after = bisect_left(self._sorted, end)
            if after < len(self._sorted) and self._sorted[after] == end:
                after += 1
            if after < len(self._sorted) and self._sorted[after].startswith(end):
                return place
        return len(text)

    def _candidates(self, text: str, first: int) -> Iterator[int]:
        short = max(first, len(text) - MINIMUM_LENGTH + 1)
        places = set()
        for head in self._heads:
            place = text.find(head, first)
            while place >= 0:
                places.add(place)
                place = text.find(head, place + 1)
        yield from sorted(places)
        yield from range(short, len(text))


def _beginnings(forms: Iterable[str]) -> re.Pattern[str]:
    """Where any of ``forms`` may begin: its first three characters, or those that are a text's last."""
    inside = {re.escape(form[:3]) for form in forms}
    at_end = {re.escape(form[:length]) for form in forms for length in (1, 2)}
    return re.compile(rf"{'|'.join(sorted(inside))}|(?:{'|'.join(sorted(at_end))})\Z")


def _forms(value: str) -> Iterator[str]:
    """The ways in which ``value`` may be written, as far as they are long enough to be told from chance."""
    ways = {
        value,
        value.replace("\n", "\r\n"),
        repr(value)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
    }
    ways |= {ascii(value)[1:-1], repr(value.encode("utf-8", "surrogatepass"))[2:-1]}
    ways |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    # urllib, encodeURIComponent and encodeURI differ in what they leave as it is.
    data = value.encode("utf-8", "surrogatepass")
    quoted = {quote(data, safe) for safe in ("", "/", "!'()*~", "!'()*~;/?:@&=+$,#")} | {quote_plus(data)}
    ways |= quoted | {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), text) for text in quoted}
    for offset in range(3):
        # Of the base64 of a longer text, these are the characters that only the secret decides.
        text = base64.b64encode(bytes(offset) + data).decode()
        inner = text[-(-8 * offset // 6) : 8 * (offset + len(data)) // 6]
        ways |= {inner, inner.replace("+", "-").replace("/", "_")}
    return (way for way in ways if len(way) >= MINIMUM_LENGTH)


_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_PARTS = frozenset(
    (
        "TOKEN",
        "TOKENS",
        "SECRET",
        "SECRETS",
        "PASSWORD",
        "PASSWORDS",
        "PASSWD",
        "PASSPHRASE",
        "PASS",
        "PWD",
        "PAT",
        "APIKEY",
        "APIKEYS",
        "AUTH",
        "AUTHORIZATION",
        "CREDENTIAL",
        "CREDENTIALS",
        "CREDS",
        "BEARER",
        "JWT",
        "COOKIE",
    )
)
_SECRET_ENDINGS = ("PASSWORD", "PASSWD", "TOKEN", "SECRET", "APIKEY")
_SECRET_PAIRS = frozenset({("ACCESS", "KEY"), ("API", "KEY"), ("PRIVATE", "KEY"), ("CONNECTION", "STRING")})
_NEVER_SECRET = ("XDG_", "SSH_AUTH_SOCK", "PWD", "OLDPWD")


def looks_secret(name: str) -> bool:
    """Whether a variable of this name usually holds a secret: ``HF_TOKEN`` yes, ``GIT_AUTHOR_NAME`` no."""
    if name.upper().startswith(_NEVER_SECRET):
        return False
    parts = [part.upper() for part in _PART.findall(name)]
    return (
        not _SECRET_PARTS.isdisjoint(parts)
        or any(part.endswith(_SECRET_ENDINGS) for part in parts)
        or any(pair in _SECRET_PAIRS for pair in itertools.pairwise(parts))
        or (len(parts) > 1 and parts[-1] in ("KEY", "KEYS"))
    )


_WORDS = re.compile(r"(?:[A-Za-z]?[a-z]+|[A-Z]+)(?:[-_. ,:](?:[A-Za-z]?[a-z]+|[A-Z]+|\d{1,2}))*")
_NUMBER = re.compile(r"[-+]?[\d.,:_/-]{1,11}(?:[eE][-+]?\d+|[a-zA-Z]{1,3})?")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PATH = re.compile(r"~?[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")


def _could_be_secret(value: str) -> bool:
    if len(value) < MINIMUM_LENGTH or _NUMBER.fullmatch(value) or _URL.fullmatch(value):
        return False
    if len(value) < 20 and _WORDS.fullmatch(value):
        return False
    return not _is_path(value)


def _is_path(value: str) -> bool:
    if not _PATH.match(value):
        return False
    if not value.startswith("/"):
        return True
    # A base64 key may begin with "/" too: it is a path when its first folder exists.
    first = value.split(os.pathsep)[0]
    top = Path(*Path(first).parts[:2])
    return "\0" not in first and (top.is_dir() if top != Path(first) else top.exists())


def _url_password(value: str) -> str:
    try:
        return unquote(urlsplit(value).password or "") if _URL.fullmatch(value) else ""
    except ValueError:
        return ""


def environment_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that hold secrets, judged by their names and values.

    A value that is a word, a number, a boolean, a path or a URL isn't one; but the password inside a URL
    (``DATABASE_URL``, ``HTTPS_PROXY``) is, whatever the variable's name.
    """
    found = {}
    for name, value in environ.items():
        secret = _url_password(value.strip()) or (value.strip() if looks_secret(name) else "")
        if _could_be_secret(secret):
            found[name] = secret
    return found

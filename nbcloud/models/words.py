"""A step before a model's graph: how often texts have each word, or run of characters, of a vocabulary.

As scikit-learn's ``CountVectorizer`` and ``TfidfVectorizer`` have it. Runs on devices, too: Python 3.9 and
numpy only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

COUNT_WORDS = "count_words"
"""The step that gives for each text a row of numbers, one for each term of a vocabulary.

``takes``: the input, as `Tensor.to_json`; ``gives``: the name of what it makes, and ``dtype`` of that.
``lowercase``; ``accents``: ``unicode`` or ``ascii``, how accents are taken away. ``analyzer``: ``word``,
``char`` or ``char_wb``; ``pattern``: the regular expression of a word; ``stop_words``: what is left out.
``ngrams``: the shortest and the longest run of words or characters. ``vocabulary``: the terms, in the order
of the columns. ``binary``: whether a term is there, not how often. ``sublinear``: 1 + log of how often.
``weights``: of each term. ``norm``: ``l1`` or ``l2``, of which each row is 1. ``keeps``: whether the graph
takes the text, too.
"""

_SPACES = re.compile(r"\s\s+")


def counter(step: Mapping[str, Any]) -> Callable[[Iterable[str]], Any]:
    """What gives the rows of numbers of some texts, shape (texts, terms)."""
    places = {term: place for place, term in enumerate(step["vocabulary"])}
    terms = _analyzer(step)
    weights = np.asarray(step["weights"], np.float64) if "weights" in step else None

    def count(texts: Iterable[str]) -> Any:
        rows = []
        for text in texts:
            found = [places[term] for term in terms(_plain(step, text)) if term in places]
            rows.append(np.bincount(np.array(found, np.int64), minlength=len(places)))
        counts = np.stack(rows).astype(np.float64) if rows else np.zeros((0, len(places)))
        if step.get("binary"):
            counts = np.minimum(counts, 1)
        if step.get("sublinear"):
            counts = np.where(counts > 0, np.log(np.maximum(counts, 1)) + 1, 0)
        if weights is not None:
            counts = counts * weights
        if step.get("norm"):
            sizes = np.abs(counts).sum(1) if step["norm"] == "l1" else np.sqrt((counts**2).sum(1))
            counts = counts / np.where(sizes > 0, sizes, 1)[:, None]
        return counts.astype(step["dtype"])

    return count


def _plain(step: Mapping[str, Any], text: str) -> str:
    """A text without what the model does not tell apart."""
    if step.get("lowercase"):
        text = text.lower()
    accents = step.get("accents")
    if accents is None or text.isascii():
        return text
    parted = unicodedata.normalize("NFKD", text)
    if accents == "ascii":
        return parted.encode("ascii", "ignore").decode("ascii")
    return "".join(each for each in parted if not unicodedata.combining(each))


def _analyzer(step: Mapping[str, Any]) -> Any:
    """What finds the terms of a text."""
    shortest, longest = step["ngrams"]
    if step["analyzer"] == "char":
        return lambda text: _runs(_SPACES.sub(" ", text), shortest, longest)
    if step["analyzer"] == "char_wb":
        return lambda text: _runs_in_words(_SPACES.sub(" ", text), shortest, longest)
    pattern = re.compile(step["pattern"])
    without = set(step.get("stop_words", ()))

    def words(text: str) -> Iterator[str]:
        tokens = [token for token in pattern.findall(text) if token not in without]
        for width in range(shortest, longest + 1):
            for start in range(len(tokens) - width + 1):
                yield " ".join(tokens[start : start + width])

    return words


def _runs(text: str, shortest: int, longest: int) -> Iterator[str]:
    for width in range(shortest, longest + 1):
        for start in range(len(text) - width + 1):
            yield text[start : start + width]


def _runs_in_words(text: str, shortest: int, longest: int) -> Iterator[str]:
    """Runs of characters that don't go beyond a word; a word shorter than that is counted once."""
    for word in text.split():
        padded = f" {word} "
        for width in range(shortest, longest + 1):
            yield padded[:width]
            for start in range(1, len(padded) - width + 1):
                yield padded[start : start + width]
            if len(padded) <= width:
                break

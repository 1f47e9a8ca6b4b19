"""What a form of a model costs and gives: size, latency, memory, accuracy, agreement with full precision."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ModelError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.optimize.calling import calling
from nbcloud.models.optimize.targets import Target
from nbcloud.models.signature import Feeds

Metric = Callable[[Feeds, Any], float]
"""Of a model's answers by their names, and what would be right; higher is better."""

_SECONDS = 0.5
_LIMIT = 600.0


@dataclass(frozen=True)
class Measured:
    """One form of a model, measured on this machine.

    Parameters
    ----------
    size : int
        Bytes of its files.
    median, p99 : float
        Seconds for one row.
    memory : int
        Bytes by which loading and running it raised the peak of a process that had only onnxruntime.
    accuracy : float or None
        The user's metric; None without what would be right.
    agreement : float
        Share of rows answered as in full precision: the same class, or numbers within a hundredth of the
        output's size.
    extended : bool
        Whether onnxruntime crashes on it with all its optimisations, and runs it with the extended ones.
    """

    way: str
    path: Path
    size: int
    median: float
    p99: float
    memory: int
    accuracy: float | None
    agreement: float
    extended: bool
    threads: int
    providers: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Plain values, for the registry."""
        known = {key: value for key, value in vars(self).items() if key not in {"path", "way"}}
        return known | {"providers": list(self.providers)}


def bench(
    path: Path, feeds: Path, target: Target, *, seconds: float = _SECONDS
) -> tuple[dict[str, Any], Feeds]:
    """Run a model in a process of its own; returns its timings and its answers.

    Raises
    ------
    ModelError
        When it does not run, with all optimisations or with fewer.
    """
    answers = path.with_name(f"{path.name}.answers.npz")
    asked = {
        "model": str(path),
        "feeds": str(feeds),
        "answers": str(answers),
        "threads": target.threads,
        "providers": list(target.providers),
        "seconds": seconds,
    }
    told = ""
    for extended in (False, True):
        command = [
            sys.executable,
            "-m",
            "nbcloud.models.optimize.bench",
            json.dumps({**asked, "extended": extended}),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
        if ended.returncode == 0:
            with np.load(answers, allow_pickle=False) as found:
                values = dict(found)
            answers.unlink()
            return {**json.loads(ended.stdout.splitlines()[-1]), "extended": extended}, values
        told = told or _why(ended)
    raise ModelError(f"onnxruntime does not run it: {told}.")


def _why(ended: subprocess.CompletedProcess[str]) -> str:
    if ended.returncode < 0:
        return f"it crashed (signal {-ended.returncode})"
    lines = [line for line in ended.stderr.strip().splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else f"exit code {ended.returncode}"


def size(path: Path) -> int:
    """Bytes of a model's files."""
    return sum(file.stat().st_size for file in onnxfile.files(path))


def agreement(found: Feeds, full: Feeds) -> float:
    """The share of rows that are answered as in full precision, in the worst output."""
    shares = []
    for name, expected in full.items():
        value = found[name]
        if expected.dtype.kind in "US" or expected.dtype.kind in "biu":
            same = (value == expected).reshape(len(expected), -1).all(axis=1)
        elif expected.ndim == 2 and expected.shape[1] > 1:
            same = value.argmax(axis=1) == expected.argmax(axis=1)
        else:
            sizes = np.abs(expected[np.isfinite(expected)])
            scale = float(np.max(sizes, initial=0)) or 1.0
            near = np.isclose(value, expected, rtol=0, atol=0.01 * scale, equal_nan=True)
            same = near.reshape(len(expected), -1).all(axis=1)
        shares.append(float(np.mean(same)))
    return min(shares)


def check_metric(asked: str | Metric | None, right: Any) -> None:
    """Refuse a metric that could not be computed, before anything is made.

    Raises
    ------
    UsageError
        For a name that there is not, or when nothing says what would be right.
    """
    if asked is None:
        return
    if right is None:
        raise UsageError(
            "A metric compares with what would be right, and that was not given.",
            "Give expected=, one for each row of the data; in a shell, --expected FILE.",
        )
    if not callable(asked) and asked not in _METRICS:
        raise UsageError(
            f"There is no metric {asked!r}.", f"There are: {', '.join(_METRICS)}; or give a function."
        )


def metric(asked: str | Metric | None, right: Any, answers: Feeds) -> Metric:
    """The metric that is meant, of those that `check_metric` knows; found out where none was asked for."""
    if callable(asked):
        return asked
    if asked is None:
        classes = (
            "label" in answers or np.asarray(right).dtype.kind in "OUSbiu" or _are_places(right, answers)
        )
        asked = "accuracy" if classes else "r2"
    return _METRICS[asked]


def rated(rate: Metric, answers: Feeds, right: Any) -> float:
    """What a metric says of answers, of which it gets copies: it may change them.

    Raises
    ------
    UsageError
        Names the line in which the user's function failed, or the kinds that can't be compared.
    """
    copies = {name: value.copy() for name, value in answers.items()}
    if rate not in _METRICS.values():
        with calling("metric="):
            return float(rate(copies, right))
    try:
        return rate(copies, right)
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        kinds = ", ".join(f"{name}: {value.dtype}" for name, value in answers.items())
        raise UsageError(
            f"What would be right ({np.asarray(right).ravel()[0]!r}, …) is not of the kind of what the model "
            f"gives ({kinds}).",
            "Give it as the model does, the place of each class for scores; or a function as the metric.",
        ) from error


def _are_places(right: Any, answers: Feeds) -> bool:
    """Whether each row has one whole number, and the model scores as many classes: a table has them so."""
    scores, wanted = next(iter(answers.values())), np.asarray(right, float)
    one = wanted.size == len(scores) and scores.ndim == 2 and scores.shape[1] > 1
    return one and bool(np.all((wanted >= 0) & (wanted < scores.shape[1]) & (wanted == np.floor(wanted))))


def _accuracy(answers: Feeds, right: Any) -> float:
    found = answers.get("label")
    if found is None:
        first = next(iter(answers.values()))
        found = first.argmax(axis=-1) if first.ndim > 1 and first.shape[-1] > 1 else first.ravel() > 0.5
    return float(
        np.mean(
            np.asarray(found).ravel().astype(str) == np.asarray(right).ravel().astype(found.dtype).astype(str)
        )
    )


def _r2(answers: Feeds, right: Any) -> float:
    found = np.asarray(next(iter(answers.values())), float).ravel()
    wanted = np.asarray(right, float).ravel()
    if found.shape != wanted.shape:
        raise UsageError(
            f"The model gives {found.size} numbers, and {wanted.size} are expected.",
            "Give the metric: --metric accuracy, or a function of the answers.",
        )
    spread = float(np.sum((wanted - wanted.mean()) ** 2)) or 1.0
    return 1.0 - float(np.sum((found - wanted) ** 2)) / spread


_METRICS: dict[str, Metric] = {"accuracy": _accuracy, "r2": _r2}

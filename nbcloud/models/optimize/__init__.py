"""A verified model in smaller or faster forms: each made, run, measured, and one of them chosen.

::

    targets   where it is to run, and what is fast there
    ways      how it is made smaller: onnxruntime's own tools
    prune     outputs that nobody needs, and what only they need
    distill   a smaller model that the user trains on its answers
    calling   functions of the user's, and their errors
    measure   size, latency, memory, accuracy, agreement; each form in a process of its own (bench)
    choice    the table, and which form fits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import ModelError, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import KEY, Metadata
from nbcloud.models.optimize.choice import Choice, Limits
from nbcloud.models.optimize.distill import STUDENT, Student, learn
from nbcloud.models.optimize.measure import (
    Measured,
    Metric,
    agreement,
    bench,
    check_metric,
    metric,
    rated,
    size,
)
from nbcloud.models.optimize.prune import with_outputs_only
from nbcloud.models.optimize.targets import TARGETS, Target, target
from nbcloud.models.optimize.ways import WAYS, NotApplicable, Source, make
from nbcloud.models.reading import Reader
from nbcloud.models.signature import Feeds

__all__ = ["TARGETS", "Choice", "Limits", "Measured", "Student", "optimize"]

Progress = Callable[[str], None]
_ROUNDS = 2


def optimize(
    path: Path,
    metadata: Metadata,
    folder: Path,
    *,
    target_name: str,
    data: Any,
    right: Any = None,
    asked_metric: str | Metric | None = None,
    limits: Limits,
    only: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    student: Student | None = None,
    progress: Progress = lambda _: None,
) -> Choice:
    """Make, run and measure the forms of a model that are worth a try on a target.

    Parameters
    ----------
    path : Path
        The verified model.
    folder : Path
        Where the forms are written.
    data : array, DataFrame, mapping
        The user's data, as the model takes it: calibrates, and is what is measured on.
    right : array, optional
        What would be right for each row.
    only : sequence of str, optional
        These ways, not all of the target's.
    outputs : sequence of str, optional
        Those of the model that are needed; what only others need is cut off.
    student : callable, optional
        Is given the data and the model's answers, by their names, and returns a smaller model that it has
        trained on them; it becomes the form ``student``.

    Raises
    ------
    UsageError
        For an unknown target, way or metric, or too little data.
    ModelError
        When the model itself does not run.
    """
    where = target(target_name)
    check_metric(asked_metric, right)
    if outputs is not None:
        path, metadata = with_outputs_only(path, metadata, outputs, folder / "pruned.onnx")
    feeds = Reader(metadata.preprocessing, metadata.signature)(data)
    rows = {len(value) for value in feeds.values() if np.ndim(value)}
    if len(rows) != 1 or rows == {0}:
        raise UsageError("The data has no rows, or not equally many for each input.")
    if right is not None and np.shape(right)[:1] != (*rows,):
        told = np.shape(right)[0] if np.ndim(right) else "no rows"
        raise UsageError(f"There are {rows.pop()} rows of data, and {told} of what would be right.")
    source = Source(
        path,
        [{name: value[at : at + 1] for name, value in feeds.items()} for at in range(rows.pop())],
        where.signed,
    )
    fed = folder / "data.npz"
    np.savez(
        fed, **{name: value.astype(str) if value.dtype == object else value for name, value in feeds.items()}
    )
    skipped: dict[str, str] = {}
    made: dict[str, Path] = {}
    for way in _ways(where, only):
        progress(f"making {way}")
        made[way] = folder / f"{way}.onnx"
        try:
            make(way, source, made[way])
            onnxfile.set_properties(made[way], {KEY: metadata.to_text()})
        except NotApplicable as error:
            skipped[way] = str(error)
            del made[way]
    if student is not None:
        progress("training the student")
        made[STUDENT] = folder / f"{STUDENT}.onnx"
        try:
            learned = learn(student, source.path, feeds, metadata, made[STUDENT])
            onnxfile.set_properties(made[STUDENT], {KEY: learned.to_text()})
        except NotApplicable as error:
            skipped[STUDENT] = str(error)
            del made[STUDENT]
    measured = _measure(made, fed, where, right, asked_metric, skipped, progress)
    return Choice(measured, skipped, where, limits, rows=len(source.rows))


def _ways(where: Target, only: Sequence[str] | None) -> list[str]:
    for way in only or ():
        if way not in WAYS:
            raise UsageError(f"There is no form {way!r} of models.", f"There are: {', '.join(WAYS)}.")
    # Full precision is what the others are compared with.
    return list(dict.fromkeys(["fp32", *(only if only is not None else where.ways)]))


def _measure(
    made: dict[str, Path],
    fed: Path,
    where: Target,
    right: Any,
    asked_metric: str | Metric | None,
    skipped: dict[str, str],
    progress: Progress,
) -> list[Measured]:
    """Each form in turn, and all once more: of its latencies each keeps the lower, since noise only adds."""
    found: dict[str, tuple[dict[str, Any], Feeds]] = {}
    for turn in range(_ROUNDS):
        for way, path in [*made.items()]:
            progress(f"measuring {way} ({turn + 1} of {_ROUNDS})")
            try:
                seen, answers = bench(path, fed, where)
            except ModelError as error:
                if way == "fp32":
                    raise
                skipped[way] = error.message.rstrip(".")
                del made[way]
                found.pop(way, None)
                continue
            if way not in found or seen["median"] < found[way][0]["median"]:
                found[way] = seen, answers
    full = found["fp32"][1]
    rates = {}
    if right is not None:
        rate = metric(asked_metric, right, full)
        rates = {way: rated(rate, answers, right) for way, (_, answers) in found.items()}
    for way in [way for way, value in rates.items() if not np.isfinite(value)]:
        if way == "fp32":
            raise UsageError(
                f"The metric is {rates[way]} for the model in full precision.",
                "See whether its answers, and what would be right, are finite.",
            )
        skipped[way] = f"the metric is {rates[way]}"
        del found[way]
    return [
        Measured(
            way=way,
            path=made[way],
            size=size(made[way]),
            median=seen["median"],
            p99=seen["p99"],
            memory=seen["memory"],
            accuracy=rates.get(way),
            agreement=agreement(answers, full),
            extended=seen["extended"],
            threads=where.threads,
            providers=tuple(seen["providers"]),
        )
        for way, (seen, answers) in found.items()
    ]

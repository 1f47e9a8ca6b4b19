"""What the sweeps share: one export and what became of it, and all of them in processes of their own.

The kinds of outcome: ``verified``; ``refused`` in a sentence; ``unfit``, when the library itself would not make or
fit it; ``wrong``, when onnxruntime won't load the ONNX model or it answers otherwise, which the verification
refuses, but is nobody's intention; ``other``, an error that nbcloud did not foresee. The last two should be empty.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

LIMIT = 240
"""Seconds that one may take."""
KINDS = ("verified", "refused", "unfit", "wrong", "other")

Outcome = tuple[str, str]
Cases = Iterator[tuple[str, Callable[[], tuple[Any, Any]]]]
"""For one name: what is special about each case, and what makes the model and its sample."""


def outcome(make: Callable[[], tuple[Any, Any]]) -> Outcome:
    """Which of `KINDS`, and more about it."""
    from nbcloud.errors import NbcloudError, VerificationError
    from nbcloud.models.export import export

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, sample = make()
        except Exception as error:
            return "unfit", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = export(model, sample, name="m", path=Path(folder) / "m.onnx")
        except VerificationError as error:
            return "wrong", str(error).replace(folder, "")
        except NbcloudError as error:
            return "refused", str(error)
        except Exception as error:
            return "other", f"{type(error).__name__}: {error}"
    skipped = f", not finite: {made.report.finite_only}" if made.report.finite_only else ""
    outputs = ", ".join(map(str, made.signature.outputs))
    return "verified", f"{outputs} ({made.metadata.exporter.partition(', ')[2]}{skipped})"


def sweep_one(cases: Callable[[str], Cases], name: str) -> list[tuple[str, str, str, str, float]]:
    """All that is found out about one name."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    found = []
    for told, make in cases(name):
        begun = time.perf_counter()
        previous = signal.signal(signal.SIGALRM, late)
        signal.alarm(LIMIT)
        try:
            state, text = outcome(make)
        except BaseException as error:
            state, text = "other", f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
        found.append((state, name, told, text, time.perf_counter() - begun))
    return found


def main(description: str, names: Sequence[str], cases: Callable[[str], Cases]) -> int:
    """Try all names, or those that the command line gives; the exit status tells whether all ended as it should.

    Parameters
    ----------
    cases : callable
        At the top of its module, since the processes import it.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(asked.processes) as threads:
        for found in threads.map(lambda name: _alone(cases, name), asked.names or names):
            for state, name, told, text, seconds in found:
                counts[state] += 1
                case = f"{told}, {seconds:.1f} s" if told else f"{seconds:.1f} s"
                print(f"{state:9} {name} ({case}): {' '.join(text.split())}", flush=True)
    print(", ".join(f"{counts[kind]} {kind}" for kind in KINDS))
    return 1 if counts["wrong"] + counts["other"] else 0


def _alone(cases: Callable[[str], Cases], name: str) -> list[tuple[str, str, str, str, float]]:
    """What is found out about a name in a process of its own, which may crash, or take all memory."""
    spawn = multiprocessing.get_context("spawn")  # a framework that was imported does not survive a fork
    with ProcessPoolExecutor(1, spawn) as process:
        try:
            return process.submit(sweep_one, cases, name).result()
        except BrokenProcessPool as error:
            return [("other", name, "", f"the process died: {error}", 0.0)]

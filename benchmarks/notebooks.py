"""Notebooks by the batch: papermill alone, in two processes, in Dask's tasks, and nbcloud; interleaved.

``python -m benchmarks.notebooks [--rounds 3] [--tail 200]``. All but the first have 2 workers of one thread,
and are up before the clock runs. In each round each contender runs 20 trivial notebooks, then 10 with pandas
and matplotlib, and what they show must be the same. At last, sessions start and stop in a row.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
from distributed import Client, LocalCluster

import nbcloud
from benchmarks.report import RESULTS, machine
from nbcloud.clusters import local, registry
from nbcloud.dispatch.kernel import CloudKernel
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import Recorder

BATCH = {"trivial": 20, "heavy": 10}
CELLS = {
    "trivial": ["seed = 0", "print(seed + 1)", "[seed] * 3"],
    "heavy": [
        "seed = 0",
        "import pandas\nimport matplotlib.pyplot as plt\n%matplotlib inline",
        "frame = pandas.DataFrame({'a': range(999)})\nframe['b'] = frame.a * (seed + 1) % 97\nframe.head()",
        "frame.groupby('b').a.mean().plot()\nplt.show()",
        "print(frame.b.sum())",
    ],
}
BASE = "papermill in Dask tasks"
SUBJECT = "nbcloud"


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """A notebook whose first cell has its parameters."""
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(each) for each in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    made.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(made, path)


def execute(source: str, output: str, seed: int) -> None:
    """One notebook by papermill, with its own engine."""
    papermill.execute_notebook(source, output, {"seed": seed}, progress_bar=False)


@dataclass(frozen=True)
class Batch:
    """Notebooks that are run together, each with a seed of its own."""

    source: Path
    outputs: list[Path]
    seeds: list[int]

    def each(self) -> list[tuple[str, str, int]]:
        return [
            (str(self.source), str(output), seed)
            for output, seed in zip(self.outputs, self.seeds, strict=True)
        ]


def sequential(batch: Batch) -> None:
    for each in batch.each():
        execute(*each)


@contextlib.contextmanager
def in_processes() -> Iterator[Callable[[Batch], None]]:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:

        def run(batch: Batch) -> None:
            for each in [pool.submit(execute, *each) for each in batch.each()]:
                each.result()

        yield run


@contextlib.contextmanager
def in_tasks() -> Iterator[Callable[[Batch], None]]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(batch: Batch) -> None:
            client.gather([client.submit(execute, *each, pure=False) for each in batch.each()])

        yield run


def swept(batch: Batch) -> None:
    folder = batch.outputs[0].parent
    with contextlib.redirect_stderr(io.StringIO()):  # the bar
        table = nbcloud.sweep(batch.source, [{"seed": seed} for seed in batch.seeds], folder)
    assert table.counts() == {"done": len(batch.seeds)}, table.rows


def shown(path: Path) -> list[Any]:
    """What a notebook shows: sources, counts and outputs, without what tells when and by whom it was run."""
    return [
        (cell.source, cell.execution_count, json.dumps(cell.outputs, sort_keys=True))
        for cell in nbformat.read(path, as_version=4).cells
    ]


def compare(folders: dict[str, Path], names: Sequence[str]) -> None:
    """All have shown the same."""
    first, *others = folders.items()
    for name in names:
        wanted = shown(first[1] / name)
        assert any(outputs != "[]" for _, _, outputs in wanted)
        for contender, folder in others:
            if (found := shown(folder / name)) != wanted:
                raise SystemExit(f"{contender} shows otherwise than {first[0]}:\n{found}\n{wanted}")


def measure(directory: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each batch, by kind and contender."""
    taken: dict[str, dict[str, list[float]]] = {kind: {} for kind in CELLS}
    with in_processes() as processes, in_tasks() as tasks:
        contenders = {
            "papermill": sequential,
            "papermill in 2 processes": processes,
            BASE: tasks,
            SUBJECT: swept,
        }
        for number in range(-1, rounds):  # the first one warms all of them up
            for kind, size in BATCH.items():
                source = directory / f"{kind}.ipynb"
                folders = {}
                seeds = [max(number, 0) * size + place for place in range(size)]
                names = [f"{place:04}.ipynb" for place in range(size)]
                for place, (name, run) in enumerate(contenders.items()):
                    folders[name] = folder = directory / f"{kind}-{number}-{place}"
                    if run is not swept:  # which makes it
                        folder.mkdir()
                    began = time.perf_counter()
                    run(Batch(source, [folder / each for each in names], seeds))
                    if number >= 0:
                        taken[kind].setdefault(name, []).append(time.perf_counter() - began)
                compare(folders, names)
    return taken


class _Forgetful(Recorder):
    """Of sessions whose cells are nobody's."""

    def lines(self, run_id: str, lines: bytes) -> None:
        """Nothing to do."""

    def change(self, run_id: str, **changes: Any) -> None:
        """Nothing to do."""


def tails(count: int) -> dict[str, list[float]]:
    """Seconds of starts and stops of sessions, in a row."""
    found: dict[str, list[float]] = {"start": [], "stop": []}
    recorder = _Forgetful()
    for number in range(count):
        kernel = CloudKernel(f"tail-{number}", CellOptions(), recorder)
        began = time.perf_counter()
        kernel.start()
        started = time.perf_counter()
        kernel.execute("1", 1).result(60)
        ran = time.perf_counter()
        kernel.close()
        found["stop"].append(time.perf_counter() - ran)
        found["start"].append(started - began)
    return found


def _show(taken: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Print a table for each kind; returns how much quicker nbcloud was, round by round."""
    ratios: dict[str, Any] = {}
    for kind, samples in taken.items():
        print(f"\n| {kind}, batches of {BATCH[kind]} | s | spread | × nbcloud | spread |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for name, times in samples.items():
            each = [time / own for time, own in zip(times, samples[SUBJECT], strict=True)]
            ratios.setdefault(kind, {})[name] = each
            print(f"| {name} | {statistics.median(times):.2f} | {min(times):.2f}–{max(times):.2f} ", end="")
            print(f"| {statistics.median(each):.1f} | {min(each):.1f}–{max(each):.1f} |")
    return ratios


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tail", type=int, default=200)
    options = parser.parse_args(arguments)
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="nbn-", dir="/tmp") as directory:
        os.environ |= {
            "NBCLOUD_RUNTIME_DIR": f"{directory}/run",
            "NBCLOUD_DATA_DIR": f"{directory}/data",
            "NBCLOUD_PRELOAD": "pandas,matplotlib.pyplot",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        for kind, cells in CELLS.items():
            write_notebook(Path(directory) / f"{kind}.ipynb", cells)
        info = local.up(workers=2, threads=1, idle_timeout=0)
        try:
            taken = measure(Path(directory), options.rounds)
            ratios = _show(taken)
            tail = tails(options.tail)
        finally:
            local.down(registry.get(info.name) or info)
    for step, times in tail.items():
        middle, longest = statistics.median(times), max(times)
        print(f"\n{step}, {len(times)} in a row: {1000 * middle:.0f} ms, ", end="")
        print(f"the longest {longest:.2f} s, {longest / middle:.1f} × that")
    now = datetime.now(UTC)
    content = {
        "date": now.isoformat(timespec="seconds"),
        "machine": facts,
        "load after": os.getloadavg(),
        "versions": {name: version(name) for name in ("papermill", "nbclient", "ipykernel", "distributed")},
        "seconds": taken,
        "ratios": ratios,
        "tail": tail,
    }
    file = RESULTS / f"{now:%Y-%m-%d}-notebooks.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nkept: {file.name}")


if __name__ == "__main__":
    main()

"""What tracking costs: logging, and a store of many runs, beside sqlite3 and, where it is there, MLflow.

    python -m benchmarks.tracking [--runs 100000] [--metrics 10] [--rounds 7]

The store is made by the tables' own statements, not run by run. "sqlite3" is the least that a program of
one's own would do: a table of values, a commit for each; and for searches the same query on bare tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbcloud.runs import index, tracked
from nbcloud.runs.entries import place
from nbcloud.runs.record import Run, RunState, new_run_id
from nbcloud.runs.store import Store

NOW = 1_800_000_000.0
FILTERS = {
    "few meet it": "metrics.m0 < 0.0005 and params.lr = 0.1",
    "a third of a third": "metrics.m0 < 0.3 and params.lr = 0.1",
    "many each, none both": "metrics.m0 < 0.3 and metrics.m1 > 0.2",
    "half each, none both": "metrics.m0 < 0.5 and metrics.m1 > 0.25",
    "a beginning": "metrics.m0 < 0.3 and params.seed like '9999%'",
    "what none has": "metrics.what is null and metrics.m0 < 0.0001",
    "a tag besides": "metrics.m0 < 0.3 and params.lr = 0.1 and tags.team = 'nlp'",
    "the best": "",
}
BARE = (
    "SELECT DISTINCT m.run FROM m JOIN p ON p.run = m.run WHERE m.key = 'm0' AND m.value < 0.3 "
    "AND p.key = 'lr' AND p.value = 0.1 ORDER BY m.run DESC LIMIT 50"
)


def fill(store: Store, runs: int, metrics: int) -> None:
    """Runs with metrics, params and tags."""
    source = random.Random(5)

    def change(connection: sqlite3.Connection) -> None:
        for number in range(runs):
            when = NOW + number * 60
            tags = {"team": source.choice(["vision", "nlp"])}
            made = Run(
                id=new_run_id(when), created=when, finished=when + 50, state=RunState.DONE,
                name=f"train{number}", code="model.fit(x, y)", tags=tags,
            )  # fmt: skip
            index.put(connection, made, None)
            low = source.random()
            values: list[Any] = [["metric", "m0", low, 1, when], ["metric", "m1", low / 2, 1, when]]
            values += [["metric", f"m{i}", source.random(), 1, when] for i in range(2, metrics)]
            values += [["param", "lr", source.choice([0.1, 0.01, 0.001])], ["param", "seed", number]]
            tracked.keep(connection, made.id, [(place(1, at), each) for at, each in enumerate(values)])

    store._database.write(change)
    store._database.read("PRAGMA wal_checkpoint(TRUNCATE)")


def bare(path: Path, store: Store) -> sqlite3.Connection:
    """The same values in tables of one's own."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE m (run INTEGER, key TEXT, value REAL)")
    connection.execute("CREATE TABLE p (run INTEGER, key TEXT, value REAL)")
    rows = store._database.read("SELECT run, key, value FROM latest")
    connection.executemany("INSERT INTO m VALUES (?, ?, ?)", rows)
    rows = store._database.read("SELECT run, key, number FROM params")
    connection.executemany("INSERT INTO p VALUES (?, ?, ?)", rows)
    for table in ("m", "p"):
        connection.execute(f"CREATE INDEX {table}_value ON {table} (key, value, run)")
        connection.execute(f"CREATE INDEX {table}_run ON {table} (run, key, value)")
    connection.commit()
    return connection


def timed(action: Callable[[], object], rounds: int) -> float:
    """The median of milliseconds."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


LOGGING = {
    "nbcloud": "import nbcloud\nlog = lambda i: nbcloud.log_metric('loss', 0.5, step=i)\nend = nbcloud.flush",
    "sqlite3": """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1] + "/bare.db", isolation_level=None)
c.execute("PRAGMA journal_mode=WAL"); c.execute("PRAGMA synchronous=NORMAL")
c.execute("CREATE TABLE m (run INTEGER, key TEXT, value REAL, step INTEGER, time REAL)")
log = lambda i: c.execute("INSERT INTO m VALUES (1, 'loss', 0.5, ?, ?)", (i, time.time()))
end = lambda: None""",
    "mlflow": """
import mlflow, sys
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1] + "/mlflow.db")
run = mlflow.start_run()
log = lambda i: mlflow.log_metric("loss", 0.5, step=i)
end = lambda: None""",
}
TIMING = """
import json, time
log(0); end()
taken = []
for i in range(1, {count} + 1):
    began = time.perf_counter_ns()
    log(i)
    taken.append((time.perf_counter_ns() - began) / 1000)
    {pause}
began = time.perf_counter_ns()
end()
taken.sort()
told = {{"mean": sum(taken) / len(taken), "median": taken[len(taken) // 2],
        "p99": taken[len(taken) * 99 // 100], "max": taken[-1],
        "end": (time.perf_counter_ns() - began) / 1e6}}
print(json.dumps(told))
"""


def logging_costs(contender: str, count: int, pause: str) -> dict[str, float]:
    """Microseconds for the caller of one value, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        code = LOGGING[contender] + TIMING.format(count=count, pause=pause)
        environment = {**os.environ, "NBCLOUD_DATA_DIR": folder}
        command = [sys.executable, "-c", code, folder]
        answer = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        return dict(json.loads(answer.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--metrics", type=int, default=10, help="values of each run")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    contenders = ["nbcloud", "sqlite3"] + ["mlflow"] * all(
        map(importlib.util.find_spec, ("mlflow", "alembic"))
    )
    print("log_metric, µs for the caller (end: ms until all is written)")
    for pause, what in (("pass", "without a pause"), ("time.sleep(0.001)", "every ms")):
        for contender in contenders:
            count = 300 if contender == "mlflow" else 20_000 if pause == "pass" else 2000
            figures = logging_costs(contender, count, pause)
            print(f"  {what:16} {contender:8}", *(f"{name} {value:9.1f}" for name, value in figures.items()))

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data")
        began = time.perf_counter()
        fill(store, arguments.runs, arguments.metrics)
        seconds = time.perf_counter() - began
        size = store._database.path.stat().st_size / 2**20
        values = arguments.runs * arguments.metrics
        print(f"\n{arguments.runs:,} runs, {values:,} values: {size:,.0f} MiB, made in {seconds:.0f} s")
        plain = bare(Path(folder) / "bare.db", store)
        floor = timed(lambda: plain.execute(BARE).fetchall(), arguments.rounds)
        print(f"the bare query on two bare tables: {floor:.2f} ms")
        for name, text in FILTERS.items():
            asked: dict[str, Any] = {"filter": text} if text else {"order_by": "metrics.m0"}
            found = store.search(**asked)
            took = timed(lambda asked=asked: store.search(**asked), arguments.rounds)
            print(f"  {name:20} {took:8.2f} ms  {took / floor:6.2f} × bare  {len(found)} found")
        listed = store.search()
        took = timed(lambda: store.tracked(run.id for run in listed), arguments.rounds)
        print(f"  what 50 runs logged  {took:8.2f} ms")
        store.close()

        def opened() -> None:
            with Store(Path(folder) / "data") as again:
                again.search(limit=1)

        print(f"  opening              {timed(opened, arguments.rounds):8.2f} ms")


if __name__ == "__main__":
    main()

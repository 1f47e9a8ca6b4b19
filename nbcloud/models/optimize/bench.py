"""One model measured in a process of its own, which may crash: ``python -m nbcloud.models.optimize.bench``.

It loads nothing but numpy and onnxruntime, so that its memory is the model's.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

_WARM, _LEAST, _MOST = 5, 20, 2000
_BATCH = 256


def main(words: list[str]) -> None:
    """Measure as the JSON in ``words[0]`` says; one line of JSON is the answer."""
    import numpy as np
    import onnxruntime

    asked = json.loads(words[0])
    feeds = dict(np.load(asked["feeds"], allow_pickle=False))
    feeds = {
        name: value.astype(object) if value.dtype.kind == "U" else value for name, value in feeds.items()
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = asked["threads"]
    if asked["extended"]:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    there = [each for each in asked["providers"] if each in onnxruntime.get_available_providers()]
    before = _peak()
    began = time.perf_counter()
    session = onnxruntime.InferenceSession(asked["model"], options, providers=there)
    loaded = time.perf_counter() - began
    names = [output.name for output in session.get_outputs()]
    rows = max(len(value) for value in feeds.values())
    first = {name: value[:1] for name, value in feeds.items()}
    times = _times(session, first, asked["seconds"])
    memory = _peak() - before
    found: dict[str, list[Any]] = {name: [] for name in names}
    for at in range(0, rows, _BATCH):
        part = {name: value[at : at + _BATCH] for name, value in feeds.items()}
        for name, value in zip(names, session.run(names, part), strict=True):
            found[name].append(value)
    whole = {name: np.concatenate(values) for name, values in found.items()}
    whole = {name: value.astype(str) if value.dtype == object else value for name, value in whole.items()}
    np.savez(asked["answers"], **whole)
    print(
        json.dumps(
            {
                "median": float(np.median(times)),
                "p99": float(np.quantile(times, 0.99)),
                "runs": len(times),
                "load": loaded,
                "memory": memory,
                "providers": session.get_providers(),
            }
        )
    )


def _times(session: Any, feeds: Any, seconds: float) -> list[float]:
    for _ in range(_WARM):
        session.run(None, feeds)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST or (time.perf_counter() < end and len(times) < _MOST):
        began = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - began)
    return times


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        # Not getrusage, which on Linux begins with what the parent process had.
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # macOS: bytes


if __name__ == "__main__":
    main(sys.argv[1:])

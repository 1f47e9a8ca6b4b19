"""Specs of Dask clusters, as the operator takes them."""

from __future__ import annotations

import time
from typing import Any

from dask_kubernetes.operator import make_cluster_spec, make_worker_spec

NAME = "calm"
QUICK = {"name": "DASK_DISTRIBUTED__ADAPTIVE__INTERVAL", "value": "500ms"}


def cluster_spec(image: str, workers: int = 1, **container: Any) -> dict[str, Any]:
    """A cluster; ``container`` is added to the worker's container."""
    spec: dict[str, Any] = make_cluster_spec(
        NAME, image=image, n_workers=workers, env=[QUICK], worker_command=["dask", "worker"]
    )
    scheduler = spec["spec"]["scheduler"]["spec"]["containers"][0]
    scheduler["args"] = ["dask", "scheduler"]
    for part in ("scheduler", "worker"):
        spec["spec"][part]["spec"]["containers"][0].pop("resources")
        spec["spec"][part]["spec"]["terminationGracePeriodSeconds"] = (
            3  # a worker that starts heeds no SIGTERM
        )
    spec["spec"]["worker"]["spec"]["containers"][0].update(args=worker_args(), **container)
    return spec


def worker_spec(image: str, workers: int, **container: Any) -> dict[str, Any]:
    spec: dict[str, Any] = make_worker_spec(
        image=image, n_workers=workers, env=[QUICK], worker_command=["dask", "worker"]
    )
    spec["spec"]["containers"][0].pop("resources")
    spec["spec"]["containers"][0].update(args=worker_args(), **container)
    return spec


def worker_args() -> list[str]:
    return [
        "dask",
        "worker",
        "--no-nanny",
        "--nthreads",
        "1",
        "--no-dashboard",
        "--name",
        "$(DASK_WORKER_NAME)",
    ]


def slow(number: int) -> int:
    time.sleep(0.5)
    return number

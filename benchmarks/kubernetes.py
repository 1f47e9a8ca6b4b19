"""From nothing to the first output on Kubernetes: nbcloud beside a bare ``KubeCluster``.

    python -m benchmarks.kubernetes [--starts 20]

Both in turn, on the double of the tests with the real operator; or on a real Kubernetes, when
``NBCLOUD_TEST_KUBECONFIG`` is set. Prints how many times longer nbcloud takes, and how much that is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.integration.kubernetes.dask_specs import cluster_spec
from tests.integration.notebooks import running_notebook
from tests.kubernetes.conftest import REAL, REAL_IMAGE
from tests.kubernetes.dask_operator import DaskOperator
from tests.kubernetes.double import KubernetesDouble
from tests.kubernetes.images import DEFAULT_IMAGE

PROFILE = """
[profiles.bench]
kind = "kubernetes"
image = "{image}"
[profiles.bench.scheduler]
cpus = 0.1
memory = "512MiB"
[profiles.bench.workers]
cpus = 1
memory = "1GiB"
"""


BARE = """
from dask_kubernetes.operator import KubeCluster
from distributed import Client
cluster = KubeCluster(custom_cluster_spec={spec!r}, port_forward_cluster_ip=True, quiet=True)
client = Client(cluster)
client.submit(pow, 6, 2).result()
"""


def bare(image: str) -> tuple[float, float]:
    """Seconds until the first result, and until all is gone; in a notebook whose kernel is up."""
    with running_notebook(load=False) as notebook:
        began = time.perf_counter()
        shown = notebook.run(BARE.format(spec=cluster_spec(image)), limit=300)
        first = time.perf_counter()
        assert shown.result == "36", shown.messages
        assert not notebook.run("client.close(); cluster.close()", limit=120).error
        return first - began, time.perf_counter() - first


def nbcloud() -> tuple[float, float]:
    """The same."""
    with running_notebook(NBCLOUD_CLUSTER="bench") as notebook:
        began = time.perf_counter()
        up = notebook.run("%cloud up bench", limit=300)
        assert not up.error, up.traceback
        shown = notebook.run("%%cloud\n6**2", limit=120)
        first = time.perf_counter()
        assert shown.result == "36", shown.messages
        assert not notebook.run("%cloud down bench", limit=120).error
        return first - began, time.perf_counter() - first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        image = _kubernetes(stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.update(NBCLOUD_RUNTIME_DIR=str(folder / "run"), NBCLOUD_DATA_DIR=str(folder / "data"))
        (folder / "nbcloud.toml").write_text(PROFILE.format(image=image))
        os.chdir(folder)
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "KubeCluster": lambda: bare(image),
            "nbcloud": nbcloud,
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for number in range(arguments.starts):
            for name in sorted(contenders, reverse=bool(number % 2)):
                times[name].append(contenders[name]())
                print(number, name, " ".join(f"{each:.2f}" for each in times[name][-1]), flush=True)
    report = _report(times)
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def _kubernetes(stack: ExitStack) -> str:
    if real := os.environ.get(REAL):
        os.environ["KUBECONFIG"] = real
        return os.environ.get(REAL_IMAGE, "ghcr.io/dask/dask:latest")
    double = stack.enter_context(KubernetesDouble())
    double.install_crds()
    stack.enter_context(DaskOperator(double))
    os.environ["KUBECONFIG"] = str(double.add_user("admin"))
    return DEFAULT_IMAGE


def _report(times: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    first, gone = ({name: [each[part] for each in found] for name, found in times.items()} for part in (0, 1))
    medians = {name: statistics.median(found) for name, found in first.items()}
    return {
        "where": "a real Kubernetes" if os.environ.get(REAL) else "the double of the tests",
        "starts": len(times["nbcloud"]),
        "first_output_ratio": round(medians["nbcloud"] / medians["KubeCluster"], 2),
        "first_output_seconds_more": round(medians["nbcloud"] - medians["KubeCluster"], 2),
        "slowest_over_median": round(max(first["nbcloud"]) / medians["nbcloud"], 2),
        "gone_ratio": round(statistics.median(gone["nbcloud"]) / statistics.median(gone["KubeCluster"]), 2),
        "first_output": {name: [round(each, 2) for each in found] for name, found in first.items()},
    }


if __name__ == "__main__":
    main()

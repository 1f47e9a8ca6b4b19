"""The operator of dask-kubernetes as a process of its own, with the rights that its Helm chart gives it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import yaml

from tests.kubernetes import processes
from tests.kubernetes.double import CHART, KubernetesDouble

ACCOUNT = "system:serviceaccount:dask-operator:dask-kubernetes-operator"
WATCHED = ("daskclusters", "daskworkergroups", "daskautoscalers", "daskjobs")
RESOLVER = Path(__file__).with_name("with_service_names.py")


def chart_rules() -> list[dict[str, Any]]:
    """The rules of the chart's ClusterRole."""
    text = (CHART / "templates/clusterrole.yaml").read_text()
    rules: list[dict[str, Any]] = yaml.safe_load(
        re.sub(r"^\{\{.*|\{\{.*?\}\}", "", text, flags=re.M).replace("name: -", "name: ")
    )["rules"]
    return rules


class DaskOperator:
    """Start and stop the operator: a context manager. It may be started again after a stop."""

    def __init__(self, double: KubernetesDouble) -> None:
        self._double = double
        self._kubeconfig = double.add_user(ACCOUNT, chart_rules())
        self.log = double.root / "operator.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, limit: float = 60.0) -> None:
        """Returns when the operator watches all of its kinds."""
        home = self._double.root / "operator"
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": f"{home}/",
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONUNBUFFERED": "1",
        }
        kopf = ["run", "-m", "dask_kubernetes.operator.controller", "--all-namespaces", "--standalone"]
        command = [sys.executable, "-P", str(RESOLVER), str(self._double.root / "services"), "kopf", *kopf]
        command[:0] = processes.launched()

        def spawn() -> subprocess.Popen[bytes]:
            with self.log.open("ab") as output:
                return subprocess.Popen(
                    command, env=environment, stdout=output, stderr=output, start_new_session=True
                )

        self._process = self._double.do(spawn)
        deadline = time.monotonic() + limit
        while not self.watching():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the operator did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def watching(self) -> bool:
        """Whether the operator sees what happens to its kinds."""
        watches = self._double.api.watches
        return all(watches[ACCOUNT, f"{each}.kubernetes.dask.org"] for each in WATCHED)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

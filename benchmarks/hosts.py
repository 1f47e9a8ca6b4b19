"""The kernels that cells are sent to, each with the cluster of two workers that its contenders use."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.driver import CellError, Kernel, UnfinishedError

FAILURES = (CellError, UnfinishedError, OSError, RuntimeError)
"""What starting or stopping a contender may end with."""


class Host:
    """A long-lived kernel in which one tool is loaded and its two workers are up."""

    name = "bare"
    of_product = False
    setup: tuple[str, ...] = ()
    teardown: tuple[str, ...] = ()

    def __init__(self, python: Path, home: Path, environment: dict[str, str]) -> None:
        self.python = python
        self.home = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=home))
        self.environment = environment
        self.kernel: Kernel | None = None

    def start(self) -> None:
        self.kernel = Kernel(self.name, self.python, self.home, self.environment)
        for code in ("import numpy as np", *self.setup):
            self.kernel.run(code)

    def stop(self) -> None:
        if self.kernel is None:
            return
        kernel, self.kernel = self.kernel, None
        try:
            kernel.interrupt()
            for code in self.teardown:
                kernel.run(code, limit=30, may_fail=True)
        except FAILURES as error:
            print(f"{self.name} did not stop politely: {error}")
        finally:
            kernel.close()


class NbcloudHost(Host):
    name = "nbcloud"
    of_product = True
    setup = ("%load_ext nbcloud", "%cloud up --workers 2", "%%cloud\npass")
    teardown = ("%cloud down",)

    def __init__(self, python: Path, home: Path, environment: dict[str, str]) -> None:
        super().__init__(python, home, environment)
        self.environment = environment | {
            # Not the user's own clusters and records.
            "NBCLOUD_DATA_DIR": str(self.home / "data"),
            "NBCLOUD_RUNTIME_DIR": str(self.home / "run"),
            # By default a cell shows the end of a flood and the record keeps all. The peers show
            # every line, so here nbcloud does too.
            "NBCLOUD_SHOWN_LIMIT": "64MiB",
        }


class IpyparallelHost(Host):
    name = "ipyparallel"
    setup = (
        "import ipyparallel",
        "cluster = ipyparallel.Cluster(n=2)\nengines = cluster.start_and_connect_sync()",
        # ``%%px`` waits for its engines, and so streams their output, only where its view blocks.
        "view = engines[:]\nview.block = True\nview.activate()",
    )
    teardown = ("engines.close()", "cluster.stop_cluster_sync()")


class DaskHost(Host):
    """A scheduler and two workers in processes of their own, as on a real cluster.

    ``LocalCluster`` inside the kernel would be unlike one: its scheduler shares the kernel's interpreter
    lock, its traffic mixes with the client's, and what its workers print reaches the notebook because
    they inherit the kernel's file descriptors.
    """

    name = "dask"
    setup = ("from dask.distributed import Client", "client = Client(scheduler_file='scheduler.json')")
    teardown = ("client.close()",)

    def __init__(self, python: Path, home: Path, environment: dict[str, str]) -> None:
        super().__init__(python, home, environment)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        address = self.home / "scheduler.json"
        local = ["--host", "127.0.0.1", "--scheduler-file", str(address)]
        self._spawn("dask_scheduler", *local, "--port", "0", "--dashboard-address", "127.0.0.1:0")
        _wait_for(address)
        self._spawn(
            "dask_worker", *local, "--nworkers", "2", "--nthreads", "1", "--local-directory", str(self.home)
        )
        super().start()
        assert self.kernel is not None
        self.kernel.run("client.wait_for_workers(2, timeout=60)")
        self.kernel.run("worker = [*client.scheduler_info()['workers']][0]")

    def _spawn(self, module: str, *options: str) -> None:
        self._processes.append(
            subprocess.Popen(
                [self.python, "-m", f"distributed.cli.{module}", *options],
                env=self.environment,
                cwd=self.home,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the driver alone; it stops them in order
            )
        )

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            for process in reversed(self._processes):
                process.terminate()
            for process in self._processes:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
            self._processes.clear()


class AfarHost(DaskHost):
    name = "afar"
    setup = (*DaskHost.setup, "import afar", "%load_ext afar")


def _wait_for(file: Path, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not (file.exists() and file.stat().st_size):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file.name} did not appear in {limit:.0f} s")
        time.sleep(0.05)


class SecondKernelHost(Host):
    """A kernel that drives another one of this machine: no cluster, no worker, no TLS, no record."""

    name = "second kernel"
    setup = (
        "from IPython.core.magic import register_cell_magic",
        "from jupyter_client.manager import KernelManager",
        "from pathlib import Path\nfile = str(Path('second.json').resolve())",
        "manager = KernelManager(transport='ipc', connection_file=file)\nmanager.start_kernel()",
        "client = manager.blocking_client()\nclient.start_channels()\nclient.wait_for_ready(60)",
        "@register_cell_magic\ndef second(_, cell):\n    client.execute_interactive(cell, allow_stdin=False)",
    )
    teardown = ("client.stop_channels()", "manager.shutdown_kernel(now=True)")


HOSTS = {
    host.name: host for host in (Host, NbcloudHost, SecondKernelHost, IpyparallelHost, DaskHost, AfarHost)
}

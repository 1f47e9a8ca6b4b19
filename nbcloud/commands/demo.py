"""``nbcloud demo``: the first notebook, run by a kernel of its own and told cell by cell."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

import nbcloud
from nbcloud.clusters import registry
from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.commands.ending import asked_to_end, raise_asked
from nbcloud.commands.notices import notice
from nbcloud.commands.story import Teller, notebook_kernel
from nbcloud.commands.verbs import down
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import ClusterError
from nbcloud.extras import check

_NOTEBOOK = "01-cloud-cell.ipynb"
_CLUSTER = "demo"


def demonstrate(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Run the notebook on a cluster of its own, and leave the executed copy, its figures and its records.

    Raises
    ------
    MissingExtra
        Without scikit-learn or matplotlib.
    ClusterError
        While another demonstration runs.
    RemoteError
        When a cell fails that should not.
    """
    check("sklearn", "for the demonstration's model and data")
    check("matplotlib", "for the demonstration's figure")
    if any(info.name == _CLUSTER for info in registry.entries()):
        raise ClusterError(
            f"A cluster named {_CLUSTER!r} is up, perhaps of another demonstration.",
            f"To end it: %cloud down {_CLUSTER}",
        )
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="nbcloud-demo-"))
    try:
        with asked_to_end(raise_asked), _cluster_down(progress):
            figures = _tell(folder / _NOTEBOOK, progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        notice("The demonstration's cluster and kernel have ended.")
        raise
    return Answer(_ending(folder, figures, time.monotonic() - started))


def _tell(path: Path, progress: Progress) -> list[Path]:
    """Run the notebook as if it lay at ``path``, and write the executed copy there; returns its figures."""
    notebook = nbformat.read(_source(), as_version=4)
    environment = {
        "NBCLOUD_CLUSTER": _CLUSTER,
        "NBCLOUD_IDLE_TIMEOUT": "10min",  # should this process be killed
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    progress("starting the notebook's kernel")
    with notebook_kernel(path, environment) as kernel:
        print(f"This is {_NOTEBOOK}, run in a kernel and on a cluster of its own. Ctrl-C ends them.\n")
        figures = Teller(kernel, path.parent).tell(notebook)
    nbformat.write(notebook, path)
    return figures


def _source() -> Path:
    """The notebook: in the wheel inside the package, in a checkout beside it."""
    package = Path(nbcloud.__file__).parent
    places = [place / "notebooks" / _NOTEBOOK for place in (package, package.parent)]
    return next(place for place in places if place.exists())


def _ending(folder: Path, figures: list[Path], seconds: float) -> str:
    with open_store() as store:
        training = store.search(notebook=str(folder / _NOTEBOOK), state="done", limit=100)
    trained = next(run.id for run in training if run.name == "digits")
    command = "nbcloud" if shutil.which("nbcloud") else str(Path(sys.executable).with_name("nbcloud"))
    return "\n".join(
        [
            f"That took {seconds:.0f} s. Its cluster and kernel have ended; what remains:",
            f"  the notebook with its outputs   {folder / _NOTEBOOK}",
            *(f"  a figure                        {figure}" for figure in figures),
            f"  the runs, on record             {command} runs",
            f"  what the training printed       {command} logs {trained}",
            "Next, in a notebook of yours: %load_ext nbcloud, and %%cloud on top of a cell. "
            "All options: %%cloud --help",
        ]
    )


@contextlib.contextmanager
def _cluster_down(progress: Progress) -> Iterator[None]:
    """See to it that the demonstration's cluster does not outlive it."""
    try:
        yield
    finally:
        with asked_to_end(signal.SIG_IGN):
            if any(info.name == _CLUSTER for info in registry.entries()):
                down(argparse.Namespace(cluster=_CLUSTER, all=False), progress)

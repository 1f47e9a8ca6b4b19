"""Run Jupyter cells on Dask clusters as if they ran here.

In a notebook: ``%load_ext nbcloud``, then ``%%cloud`` on top of a cell; ``%cloud --help`` and
``%%cloud?`` tell more. In a shell: ``nbcloud --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "CloudRun": "nbcloud.dispatch.run",
    "Handle": "nbcloud.sessions.client.handles",
    "NbcloudError": "nbcloud.errors",
    "autolog": "nbcloud.runs.autolog",
    "export": "nbcloud.dispatch.export",
    "flush": "nbcloud.runs.tracking",
    "load": "nbcloud.inference.load",
    "log_artifact": "nbcloud.runs.tracking",
    "log_dataset": "nbcloud.runs.tracking",
    "log_figure": "nbcloud.runs.tracking",
    "log_metric": "nbcloud.runs.tracking",
    "log_metrics": "nbcloud.runs.tracking",
    "log_param": "nbcloud.runs.tracking",
    "log_params": "nbcloud.runs.tracking",
    "record": "nbcloud.runs.tracking",
    "rerun": "nbcloud.workflows.rerun",
    "secret": "nbcloud.secret_values",
    "sweep": "nbcloud.workflows.sweep.start",
    "set_experiment": "nbcloud.runs.tracking",
    "set_tag": "nbcloud.runs.tracking",
    "set_tags": "nbcloud.runs.tracking",
    "start_run": "nbcloud.runs.tracking",
}
__all__ = [
    "CloudRun",
    "Handle",
    "NbcloudError",
    "__version__",
    "autolog",
    "export",
    "flush",
    "load",
    "load_ipython_extension",
    "log_artifact",
    "log_dataset",
    "log_figure",
    "log_metric",
    "log_metrics",
    "log_param",
    "log_params",
    "record",
    "rerun",
    "secret",
    "set_experiment",
    "set_tag",
    "set_tags",
    "start_run",
    "sweep",
]

if TYPE_CHECKING:
    from nbcloud.dispatch.export import export
    from nbcloud.dispatch.run import CloudRun
    from nbcloud.errors import NbcloudError
    from nbcloud.inference.load import load
    from nbcloud.runs.autolog import autolog
    from nbcloud.runs.tracking import (
        flush,
        log_artifact,
        log_dataset,
        log_figure,
        log_metric,
        log_metrics,
        log_param,
        log_params,
        record,
        set_experiment,
        set_tag,
        set_tags,
        start_run,
    )
    from nbcloud.secret_values import secret
    from nbcloud.sessions.client.handles import Handle
    from nbcloud.workflows.rerun import rerun
    from nbcloud.workflows.sweep.start import sweep


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'nbcloud' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext nbcloud``: register ``%cloud`` and ``%%cloud``."""
    from nbcloud.jupyter.magics import register

    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext nbcloud``: take the magics away; clusters, sessions and runs go on."""
    from nbcloud.jupyter.magics import unregister

    unregister(shell)

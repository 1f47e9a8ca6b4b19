"""``nbcloud.export``: a trained model becomes a verified version in the registry, wherever it lives."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import NbcloudError, UsageError
from nbcloud.extras import check
from nbcloud.runs import experiments
from nbcloud.runs.owners import process_mark
from nbcloud.runs.record import EXPORT, Run, RunState, environment_facts
from nbcloud.runs.tracking import current
from nbcloud.sessions.client.handles import Handle

if TYPE_CHECKING:
    from nbcloud.clusters.base import Progress
    from nbcloud.models.registry import Version

_MODEL, _SAMPLE, _RESULT = "_nbcloud_model", "_nbcloud_sample", "_nbcloud_exported"


def export(
    model: Any,
    sample: Any,
    name: str,
    *,
    opset: int | None = None,
    exporter: str | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | bool | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    labels: Sequence[int | str] | None = None,
    meanings: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    licence: str = "",
    run: str = "",
    tags: Mapping[str, str] | None = None,
    registry: str | None = None,
    progress: Progress | None = None,
) -> Version:
    """Export a trained model to ONNX, verify it, and register it as the next version of ``name``.

    Parameters
    ----------
    model : object, Handle or path
        A scikit-learn estimator or pipeline, a torch module, a Keras or TensorFlow model; a handle, whose
        model is exported where it is, so that only the ONNX file comes home; or a file: ``.onnx``,
        ``.keras``, ``.h5``, a SavedModel.
    sample : array, DataFrame, tensor, or a tuple or mapping of such
        A few rows of real data, as the model takes them. Types and shapes are read off it; the comparison
        with the framework begins with it, and goes on with other sizes and values.
    name : str
        The model's name in the registry.
    opset, exporter, dynamic, input_names, output_names, labels
        What is found out otherwise; see `nbcloud.models.export.Options`.
    meanings, units : mapping, optional
        For people, by the names of inputs and outputs.
    metrics : mapping, optional
        What is known of how good it is: ``{"accuracy": 0.97}``.
    run : str, optional
        The run that trained it; otherwise that of ``nbcloud.start_run`` around the export, the one that left
        the handle, or else the export's own.
    registry : str, optional
        Another registry than that of the settings.

    Returns
    -------
    Version

    Raises
    ------
    ExportError
        When a part of it can't become ONNX; names the part.
    UsageError
        Before anything is done, for a metric that is no number.
    VerificationError
        When the ONNX model answers otherwise than the framework's: nothing is registered, and what proves it
        is kept.
    """
    check("onnxruntime", "to export models")
    from nbcloud.models.registry import Registry
    from nbcloud.models.registry.reference import check_name

    check_name(name, "a model")
    target = Registry(registry)
    if _in_a_pod() and "://" not in target.root:
        raise UsageError(
            "The registry is a folder, which would end with this pod.",
            "Export from the notebook: nbcloud.export(handle, sample, name), "
            "or set registry to shared storage (s3://…).",
        )
    options = {
        "opset": opset,
        "exporter": exporter,
        "dynamic": dynamic,
        "input_names": input_names,
        "output_names": output_names,
        "labels": labels,
    }
    origin = run or current() or (model.run if isinstance(model, Handle) else "")
    facts = {"run": origin, "metrics": _numbers(metrics or {}), "licence": licence}
    with tempfile.TemporaryDirectory(prefix="nbcloud-export-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        told = {"facts": facts, "meanings": meanings, "units": units}
        with _recorded(name, model) as record:
            if isinstance(model, Handle):
                path = _where_it_lives(model, sample, name, options, told, Path(folder))
            else:
                _export_here(model, sample, name, path, options, told, progress)
            version = target.add(path, name, run=origin or record.id, tags=tags)
            record.tags["model"], record.extra["registry"] = version.uri, target.root
    return version


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as plain numbers, which numpy's and torch's become: they are written as JSON."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        text = isinstance(value, (str, bytes))  # float() would read some
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            found[str(name)] = math.nan if text else float(value)
        if not math.isfinite(found.get(str(name), math.nan)):
            raise UsageError(
                f"The metric {name!r} is {value!r}, which is no finite number.",
                "Write for example: metrics={'accuracy': 0.97}",
            )
    return found


def _export_here(
    model: Any,
    sample: Any,
    name: str,
    path: Path,
    options: dict[str, Any],
    told: dict[str, Any],
    progress: Progress | None,
) -> None:
    from nbcloud.models.export import Options
    from nbcloud.models.export import export as convert

    more: dict[str, Any] = {
        "evidence": _evidence(name),
        **({} if progress is None else {"progress": progress}),
    }
    convert(model, sample, name=name, path=path, options=Options(**options), **told, **more)


def _evidence(name: str) -> Path:
    """A folder, not made yet, for what a failed comparison saw."""
    from nbcloud.config import private_dir, settings

    return private_dir(settings().data_dir / "evidence") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _where_it_lives(
    handle: Handle, sample: Any, name: str, options: dict[str, Any], told: dict[str, Any], folder: Path
) -> Path:
    """Run the export as a cell of the session that has the model."""
    from nbcloud.models.parcel import unpack

    handle.check()
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or shell.find_cell_magic("cloud") is None:
        raise UsageError(
            f"{handle.name} is a handle, which is exported from its notebook.",
            "Type there: %load_ext nbcloud",
        )
    # No import statement, which would bind a name in both namespaces.
    pack = "__import__('nbcloud.models.parcel', fromlist=['pack']).pack"
    call = f"{pack}({_MODEL}, {_SAMPLE}, {name!r}, {options!r}, {_RESULT}, **{told!r})"
    code = f"{_RESULT} = {{}}\n{call}\nprint()"
    session = handle._session
    line = f"-s {session.name} -c {session.link.info.name} -o {_RESULT} --name export-{name}-there"  # type: ignore[attr-defined]
    shell.user_ns.update({_MODEL: handle, _SAMPLE: sample})

    def files() -> dict[str, Any]:
        found = shell.user_ns.get(_RESULT)
        return dict((found.get() if isinstance(found, Handle) else found) or {})

    try:
        try:
            shell.run_cell_magic("cloud", line, code)
        except Exception:
            if seen := files():  # a comparison that failed
                kept = _evidence(name)
                kept.mkdir()
                unpack(seen, kept)
                where = f"nbcloud: What the comparison saw, inputs, both answers and the model, is in {kept}"
                print(where, file=sys.stderr)
            raise
        made = files()
        if not made:
            raise UsageError(f"The export of {handle.name} did not end.", "See its outputs above.")
        return unpack(made, folder)
    finally:
        for each in (_MODEL, _SAMPLE, _RESULT):
            shell.user_ns.pop(each, None)


def _in_a_pod() -> bool:
    return "nbcloud.sessions.kernel.app" in sys.modules and "KUBERNETES_SERVICE_HOST" in os.environ


@contextlib.contextmanager
def _recorded(name: str, model: Any) -> Any:
    """An export is a run, too; of what runs where a model lives, the cell has another."""
    kind = model.type if isinstance(model, Handle) else type(model).__name__
    run = Run(
        name=f"export-{name}",
        kind=EXPORT,
        experiment=experiments.current(),
        code=f"nbcloud.export({kind}, name={name!r})",
        session="(this process)",
        host=platform.node(),
        versions=environment_facts(),
        extra={"client": process_mark()},
    )
    with open_store() as store:
        store.begin(run)
        run = store.update(run.id, state=RunState.RUNNING, started=time.time())
        try:
            yield run
        except BaseException as error:
            known = isinstance(error, NbcloudError)
            stopped = isinstance(error, KeyboardInterrupt)
            store.finish(
                run.changed(
                    state=RunState.CANCELLED if stopped else RunState.FAILED,
                    finished=time.time(),
                    error={"ename": type(error).__name__, "evalue": str(error)},
                    message=str(error) if known else "",
                )
            )
            raise
        store.finish(run.changed(state=RunState.DONE, finished=time.time()))

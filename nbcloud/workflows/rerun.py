"""A run that is on record runs again, and what differs in its outcome is told."""

from __future__ import annotations

import builtins
import contextlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from nbcloud.cells.analysis import analyze
from nbcloud.clusters import registry
from nbcloud.config.profiles import profile
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RemoteError, UsageError
from nbcloud.extras import check as check_extra
from nbcloud.redact import MASK
from nbcloud.runs.differences import OUTCOME, Difference, differences
from nbcloud.runs.provenance import SOURCE, kept
from nbcloud.runs.record import Run
from nbcloud.runs.records import Records
from nbcloud.workflows.notebook.outcome import outcome
from nbcloud.workflows.parameters import check, declared_in


@dataclass(frozen=True)
class Rerun:
    """What came of it.

    Attributes
    ----------
    before, after : Run
    differences : list of Difference
        All; those of what was asked and where it ran, too.
    notebook : Path
        The notebook of the new run.
    """

    before: Run
    after: Run
    differences: list[Difference]
    notebook: Path

    @property
    def same(self) -> bool:
        """Whether the outcome is the same: state, outputs, metrics, recorded values and files."""
        return not any(each.section in OUTCOME for each in self.differences)


def rerun(
    run: str,
    parameters: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    *,
    cluster: str | None = None,
    loose: bool = False,
    **options: Any,
) -> Rerun:
    """Run again what is on record: a notebook, a member of a sweep, or a cell that stands for itself.

    Parameters
    ----------
    run : str
        Its id, the beginning of it, or its name.
    parameters : mapping, optional
        Over those that it had.
    output : str or Path, optional
        The new notebook; ``NAME-rerun-ID.ipynb`` in this folder by default.
    cluster : str, optional
        Another than it was on.
    loose : bool
        Take parameters whose name or type the notebook does not have.
    **options
        Over what the run was given: ``cpus``, ``memory``, ``gpus``, and those of papermill.

    Raises
    ------
    UsageError
        When it can't be run from its record alone; says what lacks.
    RunError
        When the new run was lost or stopped.
    """
    check_extra("papermill", "to run notebooks")
    from nbcloud.workflows.notebook.run import run_notebook

    with open_store() as store:
        before = store.get(run)
        source = _source(store, before)
    check(declared_in(nbformat.reads(source, 4)), parameters or {}, loose=loose)
    had = before.extra.get("parameters", {})
    masked = [key for key in had.keys() - (parameters or {}).keys() if MASK in json.dumps(had[key])]
    if masked:
        raise UsageError(
            f"The parameter {masked[0]!r} of run {before.id} was a secret, and is masked on record.",
            f"Give it again: -p {masked[0]} VALUE",
        )
    name = re.sub(r"[^\w.-]+", "-", before.name or before.kind)
    target = Path(output or f"{name}-rerun-{before.id}.ipynb")
    given: dict[str, Any] = {key: before.resources.get(key) for key in ("cpus", "memory", "gpus")}
    if before.extra.get("seed") is not None:
        given["seed"] = before.extra["seed"]
    with tempfile.TemporaryDirectory(prefix="nbcloud-rerun-") as folder:
        path = Path(folder) / f"{name}.ipynb"
        path.write_text(source, encoding="utf-8")
        with contextlib.suppress(RemoteError):  # that, too, is an outcome
            run_notebook(
                str(path),
                str(target),
                {**had, **(parameters or {})},
                cluster=cluster or _cluster(before),
                name=before.name,
                experiment=before.experiment,
                tags={**before.tags, "rerun_of": before.id},
                **{"progress_bar": False, **given, **options},
            )
    with open_store() as store:
        after = store.get(outcome(target).run)
        return Rerun(before, after, differences(store, before, after), target)


def declared_by(run: str) -> dict[str, Any]:
    """The parameters of what was run, and their defaults."""
    with open_store() as store:
        return declared_in(nbformat.reads(_source(store, store.get(run)), 4))


def _cluster(run: Run) -> str | None:
    """Where it was, if there is such a place; an address that was registered is no name of a profile."""
    known = {info.name for info in registry.entries()}
    return run.cluster if run.cluster in known or profile(run.cluster) is not None else None


def _source(store: Records, run: Run) -> str:
    """The notebook that runs it again."""
    if run.masked:
        raise UsageError(
            f"There is a secret in the code of run {run.id}, and on record it is masked ({MASK}).",
            "Run its file again; a secret is best read from the environment, which no record has.",
        )
    if run.kind == "notebook":
        source = kept(store, run.id, SOURCE)
        if not source:
            raise UsageError(f"Run {run.id} is older than the keeping of notebooks.", "Run its file again.")
        return source
    if run.kind != "cell" or run.resources.get("workers"):
        what = "a gang of sessions" if run.kind == "cell" else f"of the kind {run.kind}"
        raise UsageError(f"Run {run.id} is {what}: what it takes to run it again is not on record.")
    required = {each.name for each in analyze(run.code).required if not hasattr(builtins, each.name)}
    required -= {"get_ipython", "display"}
    lacking = sorted(required | {each["name"] for each in run.inputs})
    if lacking:
        raise UsageError(
            f"The cell of run {run.id} needs {', '.join(lacking)}, and only their hashes are on record.",
            "Run its notebook again: a notebook on record holds all it takes (nbcloud run IN OUT).",
        )
    cell = nbformat.v4.new_code_cell(run.code)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return str(nbformat.writes(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})))

"""One notebook, run by papermill on a cluster."""

from __future__ import annotations

import ast
import json
import keyword
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node, papermill_io
from papermill.translators import translate_parameters

from nbcloud.errors import RemoteError, RunTimeout, UsageError
from nbcloud.wording import raised_text
from nbcloud.workflows.distributions import plain
from nbcloud.workflows.notebook.manager import WHOLE, is_elsewhere
from nbcloud.workflows.notebook.outcome import INJECTED, Outcome, Stage, outcome, outcome_of

KERNEL, LANGUAGE = "python3", "python"


def run_notebook(
    source: str,
    output: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    cwd: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Run a notebook on a cluster.

    Parameters
    ----------
    source, output : str
        Paths, or what else papermill reads and writes (``s3://…``).
    parameters : mapping, optional
    resume : bool
        Go on with ``output``, where that was begun, by the parameters that it has; where it has ended badly,
        run it again by them, or by those that are given. One that is done is left as it is.
    cwd : path, optional
        Where the notebook runs.
    **options
        Those of papermill and of its engine ``nbcloud``.

    Raises
    ------
    UsageError
        For other parameters or another notebook than those of what is gone on with, or is done.
    RemoteError
        What a cell raised; ``output`` has it, too.
    RunError
        When the run was lost, stopped, or took too long.
    """
    there = _begun(output) if resume else Outcome(Stage.NEW)
    begun = there.stage is Stage.BEGUN or (there.stage is Stage.LOST and there.checkpoint)
    given = {name: plain(value) for name, value in (parameters or {}).items()}
    asked = {**there.parameters, **given}
    for name in asked:
        if not name.isidentifier() or keyword.iskeyword(name):  # papermill writes it as code
            raise UsageError(f"The parameter {name!r} is not the name of a variable.")
    if begun or there.stage is Stage.DONE:
        _check_same(there.parameters, given, output)
        _check_source(source, output, there.parameters)
    if there.stage is Stage.DONE:
        return there
    try:
        notebook = papermill.execute_notebook(
            output if begun else source,
            output if is_elsewhere(output) else f"{WHOLE}{Path(output).resolve()}",
            parameters=None if begun else asked,
            engine_name="nbcloud",
            kernel_name=KERNEL,
            language=LANGUAGE,
            resume=begun,
            folder=None if cwd is None else str(Path(cwd).absolute()),
            **options,
        )
    except PapermillExecutionError as error:
        where = f"cell {error.exec_count}" if error.exec_count else "a cell"
        raise RemoteError(
            f"{raised_text(error.ename, error.evalue)} (in {where} of {output}).",
            ename=error.ename,
            evalue=error.evalue,
            traceback=[error.traceback],
        ) from None
    except CellTimeoutError as error:
        raise RunTimeout(f"{str(error).splitlines()[0]} ({output})") from None
    return outcome_of(notebook)


def _check_same(had: Mapping[str, Any], given: Mapping[str, Any], output: str) -> None:
    for name, value in given.items():
        if json.dumps(had.get(name), default=str) != json.dumps(value, default=str):
            raise UsageError(
                f"{output} was run with {name}={had.get(name)!r}, and can't be gone on with by {value!r}.",
                "Leave -p out, or run it anew: without --resume.",
            )


def _check_source(source: str, output: str, parameters: Mapping[str, Any]) -> None:
    """Refuse to go on by other code than it was begun with."""
    now, then = (load_notebook_node(path) for path in (source, output))
    codes = ([cell.source for cell in _code(each, injected=False)] for each in (now, then))
    changed = next((n for n, (a, b) in enumerate(zip_longest(*codes), 1) if a != b), None)
    if changed is not None:
        raise UsageError(
            f"{source} has changed since {output} was run (code cell {changed}).",
            "Run it anew: without --resume.",
        )
    # What papermill has written for them; it stands in a file that anybody may have written.
    expected = [each.source for each in _code(now, injected=True)]
    if parameters:
        expected = [translate_parameters(KERNEL, LANGUAGE, parameters, "Parameters")]
    found = [each.source for each in _code(then, injected=True)]
    if found != expected and [*map(_assigned, found)] != [*map(_assigned, expected)]:
        raise UsageError(
            f"The cell with the parameters in {output} is not as papermill wrote it.",
            "Run it anew: without --resume.",
        )


def _assigned(code: str) -> set[str]:
    """The statements of a cell, in no order: a notebook's file has names sorted."""
    try:
        return {ast.dump(each) for each in _Sorted().visit(ast.parse(code)).body}
    except SyntaxError:
        return {code}


class _Sorted(ast.NodeTransformer):
    """Dicts in the order of their keys."""

    def visit_Dict(self, node: ast.Dict) -> ast.Dict:
        self.generic_visit(node)
        pairs = sorted(zip(node.keys, node.values, strict=True), key=lambda pair: ast.dump(pair[0] or node))
        node.keys, node.values = [key for key, _ in pairs], [value for _, value in pairs]
        return node


def _code(notebook: Any, *, injected: bool) -> list[Any]:
    code = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [cell for cell in code if (INJECTED in cell.metadata.get("tags", ())) == injected]


def _begun(output: str) -> Outcome:
    """How far a notebook is, wherever it is."""
    if not is_elsewhere(output):
        return outcome(Path(output))
    try:
        return outcome_of(json.loads(papermill_io.read(output)))
    except Exception:  # noqa: BLE001 - each kind of storage has its own for what is not there
        return Outcome(Stage.NEW)

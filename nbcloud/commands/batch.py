"""``nbcloud run``, ``sweep`` and ``results``: notebooks from files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, duration
from nbcloud.commands.parser import Parser, read_option
from nbcloud.config import parse_bytes, parse_seconds
from nbcloud.errors import RemoteError, UsageError
from nbcloud.extras import check


def add_run_options(parser: Parser) -> None:
    """Of ``nbcloud run``."""
    parser.add_argument("notebook", metavar="IN", help="the notebook")
    parser.add_argument("output", metavar="OUT", help="the notebook with its outputs")
    _add_parameter(parser, "a parameter of the notebook's cell that is tagged 'parameters'")
    parser.add_argument("--resume", action="store_true", help="go on with OUT, where a killed run left it")
    parser.add_argument("--log-output", action="store_true", help="print what the cells print")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    _add_common(parser)


def add_sweep_options(parser: Parser) -> None:
    """Of ``nbcloud sweep``."""
    parser.add_argument("notebook", metavar="NOTEBOOK", nargs="?", help="the notebook; not with --resume")
    parser.add_argument(
        "-g",
        "--grid",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="lr=0.1,0.01 or seed=0:4; every combination of all that are given",
    )
    _add_parameter(parser, "the same for all members")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the members' notebooks go"
    )
    parser.add_argument("--random", type=int, metavar="N", help="only N members of the grid, drawn at random")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for --random (0)")
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in FOLDER")
    parser.add_argument("--failed", action="store_true", help="with --resume: those that failed, too")
    parser.add_argument("--parallel", type=int, metavar="N", help="at once (the cluster's threads)")
    parser.add_argument("--retries", type=int, default=0, metavar="N", help="for a member that fails (0)")
    parser.add_argument("--dry-run", action="store_true", help="list the members, and run none")
    _add_common(parser)


def _add_parameter(parser: Parser, text: str) -> None:
    names = ("NAME", "VALUE")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=names, help=text)


def _add_common(parser: Parser) -> None:
    parser.add_argument("-c", "--cluster", help="its name, a profile, or an address")
    parser.add_argument("--cpus", type=float, metavar="N", help="processors for each notebook")
    parser.add_argument("--memory", metavar="SIZE", help="memory for each notebook (4GiB)")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs for each notebook")
    parser.add_argument("--timeout", metavar="TIME", help="stop a cell that takes longer (2h)")
    parser.add_argument("--cwd", metavar="FOLDER", help="where the notebook runs (here)")
    parser.add_argument("--experiment", default="", metavar="NAME", help="to which the runs belong (Default)")
    parser.add_argument("--loose", action="store_true", help="take parameters that it does not have")


def add_results_options(parser: Parser) -> None:
    """Of ``nbcloud results``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep")
    parser.add_argument("--lowest", metavar="METRIC", help="first the member that has the lowest")
    parser.add_argument("--highest", metavar="METRIC", help="first the member that has the highest")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=".csv, .parquet or .html")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is the same for a notebook and for a member of a sweep."""
    if arguments.cwd and not Path(arguments.cwd).is_dir():
        raise UsageError(f"--cwd {arguments.cwd}: there is no such folder.")
    timeout = read_option("--timeout", arguments.timeout, parse_seconds)
    return {
        "cluster": arguments.cluster,
        "cpus": arguments.cpus,
        "memory": read_option("--memory", arguments.memory, parse_bytes),
        "gpus": arguments.gpus,
        "execution_timeout": timeout,
        "cwd": arguments.cwd,
        "experiment": arguments.experiment,
    }


def _given(arguments: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    from nbcloud.workflows.parameters import typed

    return {name: typed(known, name, text, loose=arguments.loose) for name, text in arguments.parameter}


def run(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001 - a bar tells
    """One notebook."""
    check("papermill", "to run notebooks")
    from nbcloud.workflows.notebooks import run_notebook
    from nbcloud.workflows.outcome import outcome
    from nbcloud.workflows.parameters import declared

    options = _options(arguments)
    parameters = _given(arguments, declared(arguments.notebook))
    try:
        end = run_notebook(
            arguments.notebook,
            arguments.output,
            parameters,
            resume=arguments.resume,
            log_output=arguments.log_output,
            progress_bar=not arguments.no_progress,
            **options,
        )
    except RemoteError as error:
        run_id = outcome(Path(arguments.output)).run  # empty where OUT is no file of this machine
        raise RemoteError(error.message, f"All of it: nbcloud logs {run_id}" if run_id else "") from None
    return Answer(f"{arguments.output} is done after {duration(end.seconds)}: run {end.run}.")


def sweep(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001 - a bar tells
    """Many notebooks."""
    check("papermill", "to run notebooks")
    from tqdm import tqdm

    from nbcloud.workflows.results import Results, summary
    from nbcloud.workflows.sweep import Member

    options = _options(arguments)
    found = _sweep(arguments)
    if arguments.dry_run:
        columns = list(found.members[0].parameters)
        rows = [[str(member.parameters[key]) for key in columns] for member in found.members]
        return Answer(f"{len(rows)} members; nothing was run.", columns, rows)
    left = found.left(again=arguments.failed)
    states: dict[str, int] = {}
    bar = tqdm(total=len(left), desc=found.source.name, unit="notebook", smoothing=0)

    def ended(member: Member) -> None:
        stage = str(member.outcome.stage)
        states[stage] = states.get(stage, 0) + 1
        bar.set_postfix_str(summary(states))
        bar.update()

    try:
        with bar:
            found.run(
                parallel=arguments.parallel,
                retries=arguments.retries,
                again=arguments.failed,
                ended=ended,
                **options,
            )
    except KeyboardInterrupt:
        again = f"nbcloud sweep -o {arguments.output} --resume"
        raise KeyboardInterrupt(f"The sweep was stopped. To go on with it: {again}") from None
    finally:
        results = Results(found)
        results.write(found.directory / "results.csv")
        results.write(found.directory / "results.html")
    counts = results.counts()
    text = f"{summary(counts)}. The table: nbcloud results {found.directory}, or results.html in it."
    return Answer(text, data=results.rows, failed=set(counts) != {"done"})


def _sweep(arguments: argparse.Namespace) -> Any:
    """The sweep that is begun, or gone on with."""
    import random

    from nbcloud.workflows.parameters import declared, grid, values_of
    from nbcloud.workflows.sweep import Sweep

    if arguments.resume:
        if arguments.notebook or arguments.grid or arguments.parameter:
            raise UsageError(
                "--resume goes on with the notebook and the members that the folder names.",
                f"Type: nbcloud sweep -o {arguments.output} --resume",
            )
        found = Sweep.open(arguments.output)
        found.check_source()
        return found
    if not arguments.notebook:
        raise UsageError("Which notebook?", "Type: nbcloud sweep NOTEBOOK -g NAME=VALUES -o FOLDER")
    known = declared(arguments.notebook)
    fixed = _given(arguments, known)
    members = [
        {**fixed, **each}
        for each in grid(dict(values_of(known, text, loose=arguments.loose) for text in arguments.grid))
    ]
    if arguments.random is not None:
        if not 0 < arguments.random <= len(members):
            raise UsageError(f"--random {arguments.random}: the grid has {len(members)} members.")
        members = random.Random(arguments.seed).sample(members, arguments.random)  # noqa: S311 - no secret
    if arguments.dry_run:
        return Sweep(Path(arguments.notebook), arguments.output, members, "")
    return Sweep.begin(Path(arguments.notebook), arguments.output, members)


def results(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """The table of a sweep."""
    check("papermill", "to read the results of a sweep")
    from nbcloud.workflows.results import Results, summary
    from nbcloud.workflows.sweep import Sweep

    found = Results(Sweep.open(arguments.folder))
    rows = found.rows
    if metric := arguments.lowest or arguments.highest:
        first = found.best(metric, "min" if arguments.lowest else "max")
        rows = [first, *[row for row in rows if row is not first]]
    if arguments.output is not None:
        found.write(arguments.output)
    columns = [each for each in found.columns if each not in {"run", "notebook"}]
    shown = [["" if row[key] is None else _short(row[key]) for key in columns] for row in rows]
    return Answer(f"{summary(found.counts())}.", columns, shown, data=rows)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""``nbcloud run``, ``sweep`` and ``results``: notebooks from files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, duration
from nbcloud.commands.parser import Parser, read_option
from nbcloud.config import parse_bytes, parse_seconds
from nbcloud.errors import RemoteError, UsageError
from nbcloud.extras import check

if TYPE_CHECKING:
    from nbcloud.workflows.sweep.folder import Sweep


def add_run_options(parser: Parser) -> None:
    """Of ``nbcloud run``."""
    parser.add_argument("notebook", metavar="IN", help="the notebook")
    parser.add_argument("output", metavar="OUT", help="the notebook with its outputs")
    add_parameter(parser, "a parameter of the notebook's cell that is tagged 'parameters'")
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
        help="lr=0.1,0.01 or seed=0:4, every combination of all that are given; with --random or --trials "
        "also lr=loguniform:1e-4:1e-1, uniform:A:B, randint:A:B, lograndint:A:B",
    )
    add_parameter(parser, "the same for all members")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the members' notebooks go"
    )
    parser.add_argument("--random", type=int, metavar="N", help="only N members of the grid, drawn at random")
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="N members (with --resume: in all), chosen one after the other by Optuna",
    )
    add_metric(parser, "the metric that --trials searches by; or that is shown")
    parser.add_argument("--prune", action="store_true", help="stop members that are behind in that metric")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for --random and --trials (0)")
    parser.add_argument(
        "--until", default="", metavar="FILTER", help="stop the rest when a member meets: metrics.loss < 0.1"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in FOLDER")
    parser.add_argument("--failed", action="store_true", help="with --resume: those that failed, too")
    parser.add_argument("--parallel", type=int, metavar="N", help="at once (the cluster's threads)")
    parser.add_argument("--retries", type=int, metavar="N", help="for a member that fails (0)")
    parser.add_argument("--member-timeout", metavar="TIME", help="stop a member that takes longer (2h)")
    parser.add_argument("--dry-run", action="store_true", help="list the members, and run none")
    _add_common(parser)


def add_metric(parser: Parser, text: str) -> None:
    """``--lowest`` and ``--highest``."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--lowest", default="", metavar="METRIC", help=text)
    either.add_argument("--highest", default="", metavar="METRIC", help="the same, where more is better")


def add_parameter(parser: Parser, text: str) -> None:
    """``-p``."""
    names = ("NAME", "VALUE")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=names, help=text)


def _add_common(parser: Parser) -> None:
    parser.add_argument("-c", "--cluster", help="its name, a profile, or an address")
    parser.add_argument("--cpus", type=float, metavar="N", help="processors for each notebook")
    parser.add_argument("--memory", metavar="SIZE", help="memory for each notebook (4GiB)")
    parser.add_argument("--gpus", type=int, metavar="N", help="GPUs for each notebook")
    parser.add_argument("--timeout", metavar="TIME", help="stop a cell that takes longer (2h)")
    parser.add_argument("--cwd", metavar="FOLDER", help="where the notebook runs (here)")
    parser.add_argument(
        "--skip-tag", action="append", default=[], metavar="TAG", help="leave cells with this tag as they are"
    )
    parser.add_argument("--experiment", default="", metavar="NAME", help="to which the runs belong (Default)")
    parser.add_argument("--loose", action="store_true", help="take parameters that it does not have")


def add_results_options(parser: Parser) -> None:
    """Of ``nbcloud results``."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep")
    add_metric(parser, "the members in the order of this metric, the lowest first")
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
        "cwd": str(Path(arguments.cwd).absolute()) if arguments.cwd else None,
        "skip_tags": arguments.skip_tag,
        "experiment": arguments.experiment,
    }


def given(arguments: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """The values of all ``-p``."""
    from nbcloud.workflows.parameters import typed

    return {name: typed(known, name, text, loose=arguments.loose) for name, text in arguments.parameter}


def run(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001 - a bar tells
    """One notebook."""
    check("papermill", "to run notebooks")
    from nbcloud.workflows.notebook.outcome import outcome
    from nbcloud.workflows.notebook.run import run_notebook
    from nbcloud.workflows.parameters import declared

    options = _options(arguments)
    parameters = given(arguments, declared(arguments.notebook))
    _check_place(arguments.output)
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
    except KeyboardInterrupt:
        again = f"nbcloud run {arguments.notebook} {arguments.output} --resume"
        raise KeyboardInterrupt(
            f"The notebook was stopped. To run it again with its parameters: {again}"
        ) from None
    return Answer(f"{arguments.output} is done after {duration(end.seconds)}: run {end.run}.")


def _check_place(output: str) -> None:
    """Refuse an output that can't be written, before a cluster is started for it."""
    from nbcloud.workflows.notebook.manager import is_elsewhere

    if is_elsewhere(output):
        return
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{output} is a folder.", f"Name a file: {path / 'out.ipynb'}")
    if not path.parent.is_dir():
        raise UsageError(
            f"There is no folder {path.parent} for {path.name}.", f"Type: mkdir -p {path.parent}"
        )


def sweep(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001 - a bar tells
    """Many notebooks."""
    check("papermill", "to run notebooks")
    if arguments.failed and not arguments.resume:
        raise UsageError(
            "--failed runs those members again that have failed, of a sweep that is gone on with.",
            f"Type: nbcloud sweep -o {arguments.output} --resume --failed",
        )
    from nbcloud.workflows.claims import claimed
    from nbcloud.workflows.sweep.results import Results
    from nbcloud.workflows.sweep.start import limits_of, search_of
    from nbcloud.workflows.sweep.start import run as run_sweep
    from nbcloud.workflows.sweep.table import summary

    options = {
        **_options(arguments),
        "parallel": arguments.parallel,
        "retries": arguments.retries,
        "member_timeout": read_option("--member-timeout", arguments.member_timeout, parse_seconds),
        "until": arguments.until,
    }
    limits_of(options)
    if arguments.dry_run:
        return _listed(arguments)
    with claimed(str(arguments.output.resolve())):
        found = _sweep(arguments)
        try:
            runner = run_sweep(
                found, search_of(found), **_metric(arguments), again=arguments.failed, **options
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
    if runner.met:
        text = f"{runner.met} The rest was stopped. {text}"
    if arguments.resume and not arguments.failed and counts.get("failed"):
        text += f" To run those that failed again: nbcloud sweep -o {arguments.output} --resume --failed"
    bad = counts.keys() - {"done", "pruned"} - ({"new", "begun"} if runner.met else set())
    return Answer(text, data=results.rows, failed=bool(bad))


def _metric(arguments: argparse.Namespace) -> dict[str, str]:
    return {
        "metric": arguments.lowest or arguments.highest,
        "mode": "max" if arguments.highest else "min",
    }


def _listed(arguments: argparse.Namespace) -> Answer:
    """What would run."""
    from nbcloud.workflows.distributions import drawn
    from nbcloud.workflows.parameters import grid
    from nbcloud.workflows.sweep.folder import Sweep

    if arguments.resume:
        found = Sweep.open(arguments.output)
        members = [member.parameters for member in found.left(again=arguments.failed)]
    else:
        domains = _domains(arguments)
        if arguments.trials is not None:
            rows = [[name, str(each)] for name, each in domains.items()]
            return Answer(f"{arguments.trials} members; nothing was run.", ["parameter", "values"], rows)
        count = arguments.random
        members = grid(domains) if count is None else drawn(domains, count, arguments.seed)
    columns = list(members[0]) if members else []
    rows = [[str(member[key]) for key in columns] for member in members]
    return Answer(f"{len(rows)} members; nothing was run.", columns, rows)


def _domains(arguments: argparse.Namespace) -> dict[str, Any]:
    """What each parameter of the notebook may be."""
    from nbcloud.workflows.parameters import declared, values_of

    if not arguments.notebook:
        raise UsageError("Which notebook?", "Type: nbcloud sweep NOTEBOOK -g NAME=VALUES -o FOLDER")
    known = declared(arguments.notebook)
    domains: dict[str, Any] = {name: [value] for name, value in given(arguments, known).items()}
    for text in arguments.grid:
        name, values = values_of(known, text, loose=arguments.loose)
        if name in domains:
            raise UsageError(f"{name} is given twice.", f"Write all of its values in one: -g {name}=A,B,C")
        domains[name] = values
    return domains


def _sweep(arguments: argparse.Namespace) -> Sweep:
    """The sweep that is begun, or gone on with."""
    from nbcloud.workflows.sweep.folder import Sweep
    from nbcloud.workflows.sweep.start import begin

    if arguments.resume:
        if arguments.notebook or arguments.grid or arguments.parameter:
            raise UsageError(
                "--resume goes on with the notebook and the members that the folder names.",
                f"Type: nbcloud sweep -o {arguments.output} --resume",
            )
        for option in ("random", "prune"):
            if getattr(arguments, option):
                raise UsageError(
                    f"--{option} counts when a sweep is begun, and this one was.", f"Leave out --{option}."
                )
        found = Sweep.open(arguments.output)
        found.check_source()
        if arguments.trials is not None:
            found.extend(arguments.trials)
        return found
    return begin(
        Path(arguments.notebook or ""),
        arguments.output,
        _domains(arguments),
        random=arguments.random,
        trials=arguments.trials,
        **_metric(arguments),
        seed=arguments.seed,
        prune=arguments.prune,
    )


def results(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """The table of a sweep."""
    check("papermill", "to read the results of a sweep")
    from nbcloud.workflows.sweep.folder import Sweep
    from nbcloud.workflows.sweep.results import Results
    from nbcloud.workflows.sweep.table import summary

    found = Results(Sweep.open(arguments.folder))
    rows = found.rows
    if metric := arguments.lowest or arguments.highest:
        rows = found.ranked(metric, "min" if arguments.lowest else "max")
    if arguments.output is not None:
        found.write(arguments.output)
    columns = [each for each in found.columns if each not in {"run", "notebook"}]
    shown = [["" if row[key] is None else _short(row[key]) for key in columns] for row in rows]
    written = f" Written to {arguments.output}." if arguments.output is not None else ""
    return Answer(f"{summary(found.counts())}.{written}", columns, shown, data=rows)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

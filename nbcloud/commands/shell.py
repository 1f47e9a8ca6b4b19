"""The commands that only a shell has: what follows a run in a terminal, and the demonstration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nbcloud.clusters.base import Progress, silent
from nbcloud.commands.answers import Answer
from nbcloud.commands.batch import add_results_options, add_run_options, add_sweep_options, sweep
from nbcloud.commands.batch import results as sweep_results
from nbcloud.commands.batch import run as run_notebook
from nbcloud.commands.export import add_export_options, export_file
from nbcloud.commands.imports import add_import_options, import_mlflow
from nbcloud.commands.notices import nothing_shown, notice
from nbcloud.commands.optimize import add_optimize_options, optimize
from nbcloud.commands.parser import Parser
from nbcloud.commands.reproduce import add_rerun_options, rerun
from nbcloud.commands.verbs import add_verb
from nbcloud.dispatch.attach import attach, complete_records
from nbcloud.dispatch.feed import SKIPPED
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.dispatch.run import failure
from nbcloud.errors import RunNotFound
from nbcloud.models.tables import RULE
from nbcloud.runs.outputs import TextFlow, compose
from nbcloud.wording import counted


def add_shell_verbs(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Add the commands that only a shell has."""
    parser = add_verb(verbs, "logs", logs, "print a run's outputs from its record")
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of it, or its name")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser = add_verb(verbs, "attach", follow, "print a run from its first message on, and go on live")
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of it, or its name")
    parser = add_verb(verbs, "kubernetes", kubernetes, "install the operator, print roles")
    _add_actions(parser)
    parser = add_verb(
        verbs, "export", export_file, "export a model's file to ONNX, verified, into the registry"
    )
    parser.add_argument("model", metavar="FILE", help=".onnx, .keras, .h5, or the folder of a SavedModel")
    parser.add_argument(
        "sample", help=f"a few rows of what it takes: .npy, .npz, .csv, .parquet, .json; {RULE}"
    )
    parser.add_argument("--name", required=True, help="the model's name in the registry")
    add_export_options(parser)
    add_optimize_options(
        add_verb(
            verbs, "optimize", optimize, "make a model smaller and faster for a target, each form measured"
        )
    )
    _add_edge(add_verb(verbs, "edge", edge, "bundle models, and bring them to devices"))
    parser = add_verb(verbs, "run", run_notebook, "run a notebook on a cluster, by papermill")
    add_run_options(parser)
    parser = add_verb(verbs, "sweep", sweep, "run a notebook over many sets of parameters", listing=True)
    add_sweep_options(parser)
    add_results_options(
        add_verb(verbs, "results", sweep_results, "show what the members of a sweep came to", listing=True)
    )
    add_rerun_options(
        add_verb(verbs, "rerun", rerun, "run again what is on record, and say what differs", listing=True)
    )
    parser = add_verb(
        verbs, "mirror", mirror, "bring the runs to MLflow that are not there yet", listing=True
    )
    parser.add_argument("--status", action="store_true", help="only say how far it is behind, and why")
    parser.add_argument("--all", action="store_true", help="those from before the setting tracking, too")
    parser = add_verb(
        verbs,
        "import-mlflow",
        import_mlflow,
        "bring the runs of an MLflow server or folder here",
        listing=True,
    )
    add_import_options(parser)
    add_verb(
        verbs, "demo", demo, "train on a cluster of this machine, in a notebook, and bring the model home"
    )


def _add_actions(parser: Parser) -> None:
    """The commands of ``nbcloud kubernetes``."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", parser_class=Parser, required=True)
    for name, text in (
        ("install", "apply the operator of dask-kubernetes, with versions that work"),
        ("uninstall", "remove it again"),
        ("rbac", "print the roles that users need, for an administrator to apply"),
    ):
        made = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.add_argument(
            "-p", "--profile", help="the profile that names the Kubernetes; kubectl's by default"
        )
        if name == "install":
            made.add_argument("--image", default="", help="another image of the operator")
            made.add_argument(
                "--dry-run", action="store_true", help="print the manifests, and change nothing"
            )
        if name == "uninstall":
            made.add_argument(
                "--all", action="store_true", help="its custom resources too, and with them every cluster"
            )


def _add_edge(parser: Parser) -> None:
    """The commands of ``nbcloud edge``."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", parser_class=Parser, required=True)
    made = _action(actions, "keygen", "make a key to sign bundles with")
    made.add_argument("key", type=Path, metavar="KEY", help="the file of the private key, not there yet")
    made = _action(actions, "bundle", "make the one file for a device")
    made.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="models:/digits@champion, or an ONNX file that nbcloud exported",
    )
    made.add_argument(
        "--golden",
        type=Path,
        required=True,
        metavar="FILE",
        help="rows of real data, as export takes it",
    )
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the bundle (MODEL.nbundle); another bundle there is replaced",
    )
    made.add_argument("--sign", type=Path, metavar="KEY", help="a private key")
    made.add_argument("--name", default="", help="another name than the model's")
    made.add_argument("--version", default="", help="its version (the registry's; 1 for a file)")
    made.add_argument("--licence", default="", help="the model's licence")
    made.add_argument("--registry", help="another registry: a folder, or an address (s3://bucket/models)")
    made.add_argument(
        "--form", choices=("onnx", "ort"), default="onnx", help="ort: for small builds of onnxruntime (onnx)"
    )
    made.add_argument("--target", default="edge", help="what ort is made for, as optimize names it (edge)")
    push = _action(actions, "push", "bring a bundle to a device, and make it the active one there")
    push.add_argument("bundle", type=Path, metavar="BUNDLE")
    for made in (push, _action(actions, "status", "say which bundle a device runs, and whether it is well")):
        made.add_argument(
            "device", metavar="DEVICE", help="user@device:folder, the folder of its store (nbcloud)"
        )
        made.add_argument("--python", default="python3", metavar="PROGRAM", help="Python there (python3)")
        made.add_argument(
            "-o", "--option", action="append", default=[], metavar="OPTION", help="for ssh: -o Port=2222"
        )
        made.add_argument("--json", action="store_true", help="answer with JSON")


def _action(actions: argparse._SubParsersAction[Parser], name: str, text: str) -> Parser:
    return actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")


def edge(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """What is about devices."""
    from nbcloud.commands.edge import edge as act

    return act(arguments, progress)


def kubernetes(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """What makes a Kubernetes fit for clusters."""
    from nbcloud.commands.kubernetes import kubernetes as act

    return act(arguments, progress)


def logs(arguments: argparse.Namespace, progress: Progress) -> Answer | None:
    """Print a record."""
    if arguments.follow:
        return follow(arguments, progress)
    complete_records()
    _print_record(arguments.run)
    return None


def _print_record(wanted: str) -> None:
    said = False
    with open_store() as store:
        run = store.get(wanted)
        for _, text in store.iter_text(run.id, ansi=sys.stdout.isatty()):
            sys.stdout.write(text)
            said = said or bool(text)
    if not said:
        nothing_shown(run.id, run.state)


def follow(arguments: argparse.Namespace, progress: Progress) -> Answer | None:  # noqa: ARG001
    """Print a run live; Ctrl-C stops watching, the run goes on."""
    recorder = Recorder()
    try:
        run = attach(arguments.run, recorder)
    except RunNotFound:
        _print_record(arguments.run)
        return None
    flow = TextFlow(sys.stdout.isatty())
    try:
        event = None
        while event != ("end", None):
            messages, event = run.take()
            for message in messages:
                if message["msg_type"] == SKIPPED:
                    lines = message["content"]["lines"]
                    notice(f"{counted(lines, 'line')} passed too fast; all of them: nbcloud logs {run.id}")
                    continue
                for output in compose([(message["msg_type"], message["content"], message["metadata"])]):
                    sys.stdout.write(flow.add(output))
            sys.stdout.flush()
    except KeyboardInterrupt:
        text = f"No longer watching run {run.id}; it goes on. To stop it: nbcloud cancel {run.id}"
        raise KeyboardInterrupt(text) from None
    finally:
        recorder.close()
    error = failure(run)
    if error is not None and run.error is None:
        raise error
    return None


def mirror(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """What is about the mirror of runs."""
    from nbcloud.commands.mirror import mirror as act

    return act(arguments, progress)


def demo(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """The main job, on real data."""
    from nbcloud.commands.demo import demonstrate

    # It tells all that it does on stdout; a log needs no second account.
    return demonstrate(arguments, progress if sys.stderr.isatty() else silent)

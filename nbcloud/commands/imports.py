"""``nbcloud import-mlflow``: the runs of a server, or of a folder, come on record here."""

from __future__ import annotations

import argparse

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.commands.parser import Parser
from nbcloud.config import private_dir
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import StoreError
from nbcloud.runs.imports.importer import Importer, alone
from nbcloud.runs.imports.source import source_of
from nbcloud.runs.mirror.client import Away, ask, connect
from nbcloud.runs.mirror.feed import shown
from nbcloud.wording import counted, size_text

_COUNTS = {
    "new": "new",
    "renewed": "renewed",
    "known": "as they were",
    "own": "mirrored from here",
    "deleted": "deleted here",
    "values": "values",
    "files": "files",
}
_ALWAYS = {"new", "known", "values", "files"}


def add_import_options(parser: Parser) -> None:
    """Its arguments."""
    parser.add_argument("uri", metavar="URI", help="a tracking server (https://HOST), or a folder (mlruns)")
    parser.add_argument(
        "-e",
        "--experiment",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be brought, and bring nothing")


def import_mlflow(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Bring runs of MLflow here."""
    address, folder = source_of(arguments.uri)
    client = connect(address, "to import runs")
    with open_store() as store, alone(private_dir(store.directory)):
        importer = Importer(store, client, address, folder, dry=arguments.dry_run, say=progress)
        try:
            ask(client)
            for experiment in importer.experiments(arguments.experiment):
                importer.bring(experiment)
        except Away as away:
            why = f"MLflow at {shown(address)} can't be reached: {store.redactor.text(str(away))}"
            raise StoreError(why, _go_on(importer)) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted. {_go_on(importer)}") from None
    return _answer(importer, arguments)


def _go_on(importer: Importer) -> str:
    brought = sum(tally.brought for tally in importer.tallies.values())
    if not brought:
        return "Nothing has come yet; the same command tries again."
    return f"{counted(brought, 'run')} came; the same command goes on from there."


def _answer(importer: Importer, arguments: argparse.Namespace) -> Answer:
    tallies = list(importer.tallies.values())
    counts = [key for key in _COUNTS if key in _ALWAYS or any(getattr(each, key) for each in tallies)]
    columns = ["experiment", *(_COUNTS[key] for key in counts), "size"]
    rows = [
        [each.experiment, *(str(getattr(each, key)) for key in counts), size_text(each.bytes)]
        for each in tallies
    ]
    brought, size = sum(each.brought for each in tallies), size_text(sum(each.bytes for each in tallies))
    text = f"{counted(brought, 'run')} came, with {size} of files."
    if arguments.dry_run:
        text = f"{counted(brought, 'run')} would come, with {size} of files; nothing was brought."
    elif brought and not importer.troubles:
        name = next(each.experiment for each in tallies if each.brought)
        text += f" See: nbcloud runs --filter \"experiment = '{name}'\" --metrics"
    if importer.troubles:
        text += f"\nNot whole, or not at all: {counted(len(importer.troubles), 'run')} of MLflow's:"
        text += "".join(f"\n  {run}: {why}" for run, why in importer.troubles.items())
    data = {
        "experiments": [vars(each) for each in tallies],
        "troubles": importer.troubles,
        "dry_run": arguments.dry_run,
    }
    return Answer(text, columns, rows, data, failed=bool(importer.troubles))

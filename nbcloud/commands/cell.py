"""The options of ``%%cloud``."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TypeVar

from nbcloud.commands.parser import Parser, read_option
from nbcloud.config import parse_bytes, parse_seconds
from nbcloud.dispatch.options import CellOptions
from nbcloud.errors import UsageError

T = TypeVar("T", int, float)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MANUAL = """\
Run this cell on a cluster as if it ran here.

Its outputs come back live and in order; variables that it reads are sent when they changed, and what it
binds is bound here too: small values as themselves, large ones as handles that stay on the cluster (.get()
brings them). The kernel's Interrupt stops it, a second one ends its kernel. Nothing that it prints is lost:
%cloud runs lists what ran, %cloud attach shows again what was missed.

The local cluster is started when none is up.
"""
EXAMPLES = """\
examples:
  %%cloud
  %%cloud -o model,history --timeout 2h --name resnet
  %%cloud -s training --cpus 2 --memory 8GiB
  %%cloud --workers 2 --gpus 1
  %%cloud --sweep lr=0.1,0.01 --sweep seed=0:4 -o loss
  %%cloud --bg
"""


class _CellParser(Parser):
    def _hint(self, message: str) -> str:
        if "unrecognized" in message and " -" not in message:  # ``-o a, b``, ``--timeout 5 minutes``
            return "What has blanks in it goes into quotes; several names are written as a,b."
        return super()._hint(message)


@cache
def cell_parser() -> Parser:
    """The parser of the line behind ``%%cloud``."""
    parser = _CellParser(prog="%%cloud", description=MANUAL, epilog=EXAMPLES)
    where = parser.add_argument_group("where")
    where.add_argument("-c", "--cluster", metavar="NAME", help="a cluster's name or address")
    where.add_argument(
        "-s", "--session", metavar="NAME", help="a session by name; the notebook's own by default"
    )
    where.add_argument("--fresh", action="store_true", help="a session for this cell alone, ended with it")
    where.add_argument("--cpus", type=float, metavar="N", help="processors that the session must hold")
    where.add_argument(
        "--memory", metavar="SIZE", help="memory that the session must hold and may not pass (16GiB)"
    )
    where.add_argument("--gpus", type=int, metavar="N", help="GPUs that the session must hold, and sees")
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="run it in N sessions at once, each of them a RANK of WORLD_SIZE",
    )
    where.add_argument("--local", action="store_true", help="run it here, with the same record")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--sweep",
        action="append",
        metavar="NAME=VALUES",
        help="run it once for each of these, a=0:4 or lr=0.1,0.01; of several of them, for each combination",
    )
    data.add_argument("-i", "--in", dest="inputs", action="append", metavar="NAMES", help="send these, too")
    data.add_argument(
        "-o", "--out", dest="outputs", action="append", metavar="NAMES", help="bring these home"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--bg", action="store_true", help="in the background: a run handle at once, outputs as they come"
    )
    how.add_argument("--timeout", metavar="TIME", help="stop it when it has run for so long (90s, 30min, 2h)")
    how.add_argument(
        "--retries", type=int, default=0, metavar="N", help="run it again when it fails, up to N times"
    )
    how.add_argument(
        "--cache", action="store_true", help="skip it when its code and inputs are the same as last time"
    )
    how.add_argument(
        "--dry-run", action="store_true", help="say what would be sent and where, and send nothing"
    )
    record = parser.add_argument_group("record")
    record.add_argument("--name", default="", help="a name for the run")
    record.add_argument("--tag", action="append", metavar="KEY=VALUE", help="a tag for the run's record")
    return parser


@lru_cache(maxsize=64)
def cell_options(line: str) -> CellOptions:
    """Read the line behind ``%%cloud``.

    Raises
    ------
    UsageError
        Names what can't be right and the nearest that can.
    """
    words = cell_parser().parse_line(line)
    if words.fresh and words.session:
        raise UsageError("--fresh and -s contradict each other.", "A one-off session has no name.")
    where = (words.cluster, words.session, words.fresh, words.cpus, words.memory, words.gpus, words.workers)
    if words.local and any(option not in {None, False} for option in where):
        raise UsageError("--local runs the cell in this kernel, which takes no option about where.")
    if words.local and words.bg:
        raise UsageError(
            "--local and --bg contradict each other.", "This kernel runs one cell at a time: leave one out."
        )
    if words.retries < 0:
        raise UsageError(f"--retries {words.retries}: it can't be negative.")
    if words.cpus is not None and words.cpus <= 0:
        raise UsageError(f"--cpus {words.cpus:g}: it must be more than 0.")
    if words.gpus is not None and words.gpus < 1:
        raise UsageError(f"--gpus {words.gpus}: it must be at least 1.", "Without a GPU: leave it out.")
    if words.workers is not None and words.workers < 1:
        raise UsageError(f"--workers {words.workers}: it must be at least 1.")
    if words.workers and words.cache:
        raise UsageError("--cache and --workers contradict each other.", "Each rank has results of its own.")
    if words.sweep:
        _check_sweep(words)
    if words.session and not _NAME.fullmatch(words.session):
        raise UsageError(
            f"-s {words.session!r} can't name a session.", "Use letters, digits, '-', '_' and '.'."
        )
    return CellOptions(
        cluster=words.cluster,
        session=words.session,
        fresh=words.fresh,
        inputs=_names("-i", words.inputs),
        outputs=_names("-o", words.outputs),
        background=words.bg,
        name=words.name,
        tags=dict(_tag(tag) for tag in words.tag or ()),
        cpus=words.cpus,
        gpus=words.gpus,
        workers=words.workers,
        memory=_positive("--memory", words.memory, parse_bytes),
        timeout=_positive("--timeout", words.timeout, parse_seconds),
        retries=words.retries,
        cache=words.cache,
        local=words.local,
        dry_run=words.dry_run,
        sweep=tuple(words.sweep or ()),
    )


_NOT_SWEPT = {
    "session": ("-s", "Each member has a session of its own: leave it out."),
    "workers": ("--workers", "Each member has one worker: leave it out."),
    "local": ("--local", "A sweep runs on a cluster: leave it out."),
    "cache": ("--cache", "Each member runs in a new session, which remembers no results."),
    "bg": ("--bg", "In a notebook of its own, a sweep runs without you: nbcloud sweep NOTEBOOK"),
}


def _check_sweep(words: Namespace) -> None:
    for option, (flag, hint) in _NOT_SWEPT.items():
        if getattr(words, option):
            raise UsageError(f"--sweep and {flag} contradict each other.", hint)


def _names(flag: str, given: list[str] | None) -> tuple[str, ...]:
    names = [name.strip() for text in given or () for name in text.split(",") if name.strip()]
    for name in names:
        if not name.isidentifier():
            raise UsageError(
                f"{flag} {name!r} is not the name of a variable.", f"Write for example: {flag} model,loss"
            )
    return tuple(dict.fromkeys(names))


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--tag {text!r} is not KEY=VALUE.", "Write for example: --tag stage=draft")
    return key.strip(), value.strip()


def _positive(flag: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    value = read_option(flag, text, parse)
    if value is not None and value <= 0:
        raise UsageError(f"{flag} {text}: it must be more than 0.")
    return value

"""``nbcloud`` in a shell."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Self

from nbcloud import __version__
from nbcloud.commands.answers import Answer
from nbcloud.commands.ending import AskedToEnd, asked_to_end, raise_asked
from nbcloud.commands.notices import notice
from nbcloud.commands.parser import Help, Parser
from nbcloud.commands.verbs import add_verbs
from nbcloud.errors import NbcloudError, UsageError

NOTEBOOK_ONLY = ("names", "pull", "push", "reset")
"""Commands of ``%cloud`` that a shell does not have."""

_FAILED, _USAGE, _DIFFERS, _INTERRUPTED = 1, 2, 3, 130
_ENDED = 128  # and the signal's number
_PATIENCE = 5.0
_QUOTED = {"name", "experiment"}  # columns that hold code and names of the user's


def parser() -> Parser:
    """The command line."""
    from nbcloud.commands.shell import add_shell_verbs

    top = Parser(prog="nbcloud", description="Clusters, runs and their records, from a shell.")
    top.add_argument("--version", action="version", version=f"nbcloud {__version__}")
    add_shell_verbs(add_verbs(top))
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0, 1 for failure, 2 for a wrong command line, 3 when what ran again came out otherwise; after a
    signal 128 and more.
    """
    if "_ARGCOMPLETE" in os.environ:
        from nbcloud.commands.tab import complete

        complete(parser())
    try:
        with asked_to_end(raise_asked, ("SIGTERM", "SIGHUP")):
            return _main(sys.argv[1:] if words is None else words)
    except AskedToEnd as error:
        notice(str(error))
        return _ENDED + error.number


def _main(words: Sequence[str]) -> int:
    try:
        if words and words[0] in NOTEBOOK_ONLY:
            raise UsageError(
                f"nbcloud {words[0]} is about the variables of a notebook.", f"Type there: %cloud {words[0]}"
            )
        arguments = parser().parse_args(words)
        if arguments.verb is None:
            raise Help(parser().format_help())
        with _Told() as told:
            answer = arguments.function(arguments, told.tell)
        _print(answer, arguments)
        sys.stdout.flush()  # not at the very end, where a reader that is gone would be an error
        if answer is None:
            return 0
        return _FAILED if answer.failed else _DIFFERS if answer.differs else 0
    except Help as page:
        print(page, end="")
    except UsageError as error:
        notice(_as_typed_here(str(error)))
        return _USAGE
    except NbcloudError as error:
        notice(_as_typed_here(str(error)))
        return _FAILED
    except AskedToEnd:
        raise
    except KeyboardInterrupt as error:
        notice(str(error) or "Interrupted.")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        # What is still in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        notice(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}.")
        return _FAILED
    finally:
        from nbcloud.dispatch.links import close_links

        close_links()
    return 0


def _as_typed_here(text: str) -> str:
    """``text`` with the commands that it names as a shell has them; those that only a notebook has stay."""
    return re.sub(rf"(?<!%)%cloud (?=({_verbs()})\b)", "nbcloud ", text)


@cache
def _verbs() -> str:
    return "|".join(parser().verbs())


class _Told:
    """Tells the phases of a command, each once: in a terminal at once, elsewhere when it takes long.

    So a log of CI shows what a command waits for, and no more than the answer when it need not.
    """

    def __init__(self) -> None:
        self._quiet_until = 0.0 if sys.stderr.isatty() else time.monotonic() + _PATIENCE
        self._latest = self._shown = ""
        self._lock = threading.Lock()
        self._late = threading.Timer(_PATIENCE, self._show)
        self._late.daemon = True

    def tell(self, text: str) -> None:
        """A new phase, or the same one again."""
        self._latest = text
        if time.monotonic() >= self._quiet_until:
            self._show()

    def _show(self) -> None:
        with self._lock:
            if self._latest != self._shown:
                self._shown = self._latest
                notice(f"{_as_typed_here(self._shown)} …")

    def __enter__(self) -> Self:
        if self._quiet_until:
            self._late.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._late.cancel()


def _print(answer: Answer | None, arguments: argparse.Namespace) -> None:
    if answer is None:
        return
    if getattr(arguments, "json", False):
        print(json.dumps(answer.data, indent=1, default=str))
    else:
        rows = [
            [
                cell if column in _QUOTED else _as_typed_here(cell)
                for column, cell in zip(answer.columns, row, strict=True)
            ]
            for row in answer.rows
        ]
        print(replace(answer, text=_as_typed_here(answer.text), rows=rows))


if __name__ == "__main__":
    sys.exit(main())

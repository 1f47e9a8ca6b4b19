"""``nbcloud`` in a shell."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from nbcloud import __version__
from nbcloud.commands.answers import Answer
from nbcloud.commands.notices import notice
from nbcloud.commands.parser import Help, Parser
from nbcloud.commands.verbs import add_verbs
from nbcloud.errors import NbcloudError, UsageError

NOTEBOOK_ONLY = ("names", "pull", "push", "reset")
"""Commands of ``%cloud`` that a shell does not have."""

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130


def parser() -> Parser:
    """The command line."""
    from nbcloud.commands.shell import add_shell_verbs

    top = Parser(prog="nbcloud", description="Clusters, runs and their records, from a shell.")
    top.add_argument("--version", action="version", version=f"nbcloud {__version__}")
    add_shell_verbs(add_verbs(top))
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 for failure, 2 for a wrong command line, 130 after Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    try:
        if words and words[0] in NOTEBOOK_ONLY:
            raise UsageError(
                f"nbcloud {words[0]} is about the variables of a notebook.", f"Type there: %cloud {words[0]}"
            )
        arguments = parser().parse_args(words)
        if arguments.verb is None:
            raise Help(parser().format_help())
        answer = arguments.function(arguments, _progress)
        _print(answer, arguments)
        sys.stdout.flush()  # not at the very end, where a reader that is gone would be an error
        return _FAILED if answer is not None and answer.failed else 0
    except Help as page:
        print(page, end="")
    except UsageError as error:
        notice(_as_typed_here(str(error)))
        return _USAGE
    except NbcloudError as error:
        notice(_as_typed_here(str(error)))
        return _FAILED
    except KeyboardInterrupt as error:
        notice(str(error) or "Interrupted.")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        # What is still in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        from nbcloud.dispatch.links import close_links

        close_links()
    return 0


def _as_typed_here(text: str) -> str:
    """``text`` with the commands that it names as a shell has them; those that only a notebook has stay."""
    return re.sub(rf"(?<!%)%cloud (?=({'|'.join(parser().verbs())})\b)", "nbcloud ", text)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        notice(f"{text} …")


def _print(answer: Answer | None, arguments: argparse.Namespace) -> None:
    if answer is None:
        return
    if getattr(arguments, "json", False):
        print(json.dumps(answer.data, indent=1, default=str))
    else:
        print(replace(answer, text=_as_typed_here(answer.text)))


if __name__ == "__main__":
    sys.exit(main())

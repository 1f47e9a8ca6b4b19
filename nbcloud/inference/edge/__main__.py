"""``python -m nbcloud.inference.edge``, and ``python digits.nbundle``."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from nbcloud.errors import MissingExtra, NbcloudError, UsageError
from nbcloud.models.tables import RULE

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

_COMMANDS = {
    "run": "answer inputs",
    "verify": "check a bundle, and let it pass its self-test",
    "info": "say what a bundle is",
    "serve": "answer by HTTP, with the Open Inference Protocol",
    "store": "keep bundles: one is active, and the one before it is there",
    "deliver": "send what was queued about answers",
}


class _Parser(argparse.ArgumentParser):
    """One sentence instead of a page about a wrong command line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}.", f"See: {self.prog} --help")


def main(words: Sequence[str] | None = None, bundle: str = "") -> int:
    """Run one command; returns 0, 1 for failure, 2 for a wrong command line, 130 after Ctrl-C.

    Parameters
    ----------
    bundle : str
        The bundle that this program is itself; commands mean it.
    """
    words = list(sys.argv[1:] if words is None else words)
    try:
        if bundle and (not words or words[0] not in (*_COMMANDS, "-h", "--help")):
            words = _as_run(words)
        arguments = _parser(bundle).parse_args(words)
        _check_packages()
        from nbcloud.inference.edge import commands

        failed: bool = getattr(commands, arguments.command)(arguments)
        sys.stdout.flush()
        return _FAILED if failed else 0
    except NbcloudError as error:
        print(f"nbcloud: {error}", file=sys.stderr)
        return _USAGE if isinstance(error, UsageError) else _FAILED
    except MemoryError:
        print("nbcloud: The memory does not suffice. Give more: --memory", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"nbcloud: {where}{error.strerror or error}.", file=sys.stderr)
        return _FAILED


def _as_run(words: list[str]) -> list[str]:
    """A bundle runs when no command is named; all that ``run`` takes are options."""
    if words and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], _COMMANDS, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(f"There is no command {words[0]!r}.", f"{hint}There are: {', '.join(_COMMANDS)}.")
    return ["run", *words]


def _check_packages() -> None:
    for package in ("numpy", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"{package} is needed to run models, and is not installed here.",
                f"Type: {sys.executable} -m pip install numpy onnxruntime",
            )


def _parser(bundle: str) -> argparse.ArgumentParser:
    program = f"python {bundle}" if bundle else "python -m nbcloud.inference.edge"
    top = _Parser(prog=program, description="Models on this device.")
    verbs = top.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=_Parser)
    for name, text in _COMMANDS.items():
        parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == "store":
            _add_store(parser, bundle)
        elif name == "deliver":
            _add_deliver(parser)
        else:
            _add_model(parser, bundle)
        if name == "run":
            _add_run(parser)
        if name == "serve":
            _add_serve(parser)
        if name in ("run", "verify", "info"):
            parser.add_argument("--json", action="store_true", help="answer with JSON")
    return top


def _add_model(parser: argparse.ArgumentParser, bundle: str) -> None:
    if bundle:
        parser.set_defaults(bundle=bundle)
    else:
        parser.add_argument("bundle", metavar="BUNDLE", help="a bundle, or a store: its active one")
    parser.add_argument(
        "--trusted",
        type=Path,
        metavar="FOLDER",
        help="public keys (*.pub.pem); one of these must have signed it",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one answer")
    parser.add_argument("--memory", metavar="SIZE", help="memory that this process may take (200MB)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="INPUT",
        help=f"a file, a folder, - (a line of JSON each), camera; {RULE}",
    )
    parser.add_argument("--telemetry", type=Path, metavar="FOLDER", help="queue what is seen there")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8080, help="its port (8080); 0 for one that is free")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its content is what requests must bear"
    )
    parser.add_argument("--limit", default="16MB", metavar="SIZE", help="of a request (16MB)")


def _add_store(parser: argparse.ArgumentParser, bundle: str) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True, parser_class=_Parser)
    for name, text in (
        ("add", "take in a bundle, checked"),
        ("ls", "list versions"),
        ("activate", "make a version the active one, after its self-test"),
        ("rollback", "make the version before it the active one"),
        ("status", "say which is active, and whether it is well"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("store", type=Path, metavar="STORE", help="the folder")
        if name == "add":
            if bundle:
                action.set_defaults(bundle=Path(bundle))
            else:
                action.add_argument("bundle", type=Path, metavar="BUNDLE")
            action.add_argument("--activate", action="store_true", help="and make it the active one")
        if name == "activate":
            action.add_argument("version", metavar="VERSION", help="its name, or the beginning of it")
        if name in ("ls", "status"):
            action.add_argument("--json", action="store_true", help="answer with JSON")


def _add_deliver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="that of --telemetry")
    parser.add_argument("--to", required=True, metavar="WHERE", help="https://…, or a folder")
    parser.add_argument("--device", required=True, metavar="NAME", help="who it comes from")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="PEM file that the receiver's certificate is of"
    )


if __name__ == "__main__":
    sys.exit(main())

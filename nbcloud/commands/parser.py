"""Command lines that answer mistakes with one sentence and the nearest right word."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from nbcloud.errors import ConfigError, UsageError

T = TypeVar("T")


def read_option(flag: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    """The value of an option, None when it was not given.

    Not argparse's ``type``, which says of an error no more than that the value is invalid.
    """
    try:
        return None if text is None else parse(text)
    except ConfigError as error:
        raise UsageError(f"{flag}: {error.message}", error.hint) from None


_NUMBERS: dict[Any, tuple[str, str]] = {int: ("a whole number", "2"), float: ("a number", "0.5")}
"""Types of values: in words, and one of them."""


class Help(Exception):
    """The manual page that was asked for."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process.

    Flags can't be shortened: a script must not change its meaning when a flag is added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As argparse; what has no flag is named in capitals wherever it is spoken of."""
        if names and not names[0].startswith("-") and "choices" not in options:
            options.setdefault("metavar", names[0].upper())
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse, with the nearest valid word where there is one."""
        raise UsageError(f"{self.prog}: {message}.", self._hint(message))

    def _hint(self, message: str) -> str:
        unknown = message.rpartition(": ")[2].split() if "unrecognized" in message else []
        for word in unknown:
            near = difflib.get_close_matches(word.partition("=")[0], self.flags(), n=1)
            if near:
                return f"Did you mean {near[0]}?"
        return f"See: {self.prog} --help" if unknown == [] else f"There are: {', '.join(self.flags())}."

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all words; one that nobody knows is refused by the command that it was given to."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            chosen = self.verbs().get(getattr(parsed, "verb", None) or "", self)
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def verbs(self) -> dict[str, Parser]:
        """The parsers of its commands, by their names."""
        found = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return {name: parser for action in found for name, parser in action.choices.items()}

    def flags(self) -> list[str]:
        """All flags, the long form of each where there is one."""
        return [max(action.option_strings, key=len) for action in self._actions if action.option_strings]

    def choices(self, flag: str) -> list[str] | None:
        """What may follow a flag, as far as that is known here; None for one that takes no value."""
        action = self._option_string_actions.get(flag)
        return None if action is None or action.nargs == 0 else [str(each) for each in action.choices or ()]

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            if action.type not in _NUMBERS:
                raise
            kind, example = _NUMBERS[action.type]
            name = min(action.option_strings, key=len, default=str(action.metavar or action.dest).upper())
            raise UsageError(
                f"{name} {arg_string!r}: it must be {kind}.",
                f"Write for example: {self._call(action)}{example}",
            ) from None

    def _call(self, action: argparse.Action) -> str:
        flag = min(action.option_strings, key=len, default="")
        return f"{flag} " if flag else f"{self.prog} "

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"{self.prog} has no {value!r}.", f"{hint}There are: {', '.join(choices)}.")

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002 - the interface
        """Hand the manual page to whoever shows it."""
        raise Help(self.format_help())

    def parse_line(self, line: str) -> argparse.Namespace:
        """Parse what was typed behind the command."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(
                f"{self.prog}: {line!r} can't be read: {error}.", "Close the quotation."
            ) from None
        parsed: argparse.Namespace = self.parse_args(words)
        return parsed

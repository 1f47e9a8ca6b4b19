"""One notebook over many sets of parameters: each a notebook of its own, in one folder that tells all.

::

    sweeps/
        sweep.json      the notebook, the parameters of every member, what chooses further ones, and options
        0000.ipynb      the members' outputs: how far each is, its file tells

Nothing else is remembered, so that whatever is killed, the folder is true.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nbcloud.errors import UsageError
from nbcloud.runs.files import write_atomically
from nbcloud.workflows.notebook.manager import PUBLIC
from nbcloud.workflows.notebook.outcome import Outcome, Stage, outcome

FORMAT = 1
"""Of sweep.json."""


@dataclass(frozen=True)
class Member:
    """One set of parameters, and its notebook.

    Attributes
    ----------
    number : int
    parameters : dict
    output : Path
    """

    number: int
    parameters: dict[str, Any]
    output: Path

    @property
    def outcome(self) -> Outcome:
        """How far it is."""
        return outcome(self.output)


class Sweep:
    """The members of one sweep, in their folder.

    Parameters
    ----------
    source : Path
        The notebook.
    directory : Path
    parameters : sequence of dict
        One for each member.
    digest : str
        Of the notebook, as it was when the sweep was begun.
    search : mapping, optional
        What is needed to choose further members.
    options : mapping, optional
        With which it runs, and is gone on with.
    """

    def __init__(
        self,
        source: Path,
        directory: Path,
        parameters: Sequence[Mapping[str, Any]],
        digest: str,
        search: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.source = source
        self.directory = directory
        self.search = search
        self.options = dict(options or {})
        self._digest = digest
        self.members: list[Member] = []
        for each in parameters:
            self._append(each)

    @classmethod
    def begin(
        cls,
        source: Path,
        directory: Path,
        parameters: Sequence[Mapping[str, Any]],
        search: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the folder of a new sweep.

        Parameters
        ----------
        source, directory : Path
        parameters : sequence of dict
            Of the members that are known.
        search : mapping, optional
            As JSON can hold it.

        Raises
        ------
        UsageError
            When the folder holds a sweep already.
        """
        sweep = cls(source, directory, parameters, _digest(source), search)
        file = _file(directory)
        if file.exists():
            there = cls.open(directory)
            ended = sum(each.outcome.stage.ended for each in there.members)
            if any(each.output.exists() for each in there.members):  # else nothing of it was ever run
                raise UsageError(
                    f"{directory} holds a sweep of {len(there.members)} members already; {ended} have ended.",
                    "To go on with it: --resume. Else choose another folder: -o FOLDER",
                )
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"{directory} can't be a folder: a file is in its place.", "Choose another: -o FOLDER"
            ) from error
        sweep._write()
        return sweep

    def _write(self) -> None:
        document = {
            "format": FORMAT,
            "notebook": str(self.source.absolute()),
            "digest": self._digest,
            "search": self.search,
            "options": self.options,
            "members": [each.parameters for each in self.members],
        }
        data = json.dumps(document, indent=1).encode()
        write_atomically(_file(self.directory), data, sync=False, mode=PUBLIC)

    def _append(self, parameters: Mapping[str, Any]) -> Member:
        number = len(self.members)
        member = Member(number, dict(parameters), self.directory / f"{number:04}.ipynb")
        self.members.append(member)
        return member

    def keep_options(self, **given: Any) -> None:
        """Run with these from now on, and with those from before that are not named; None forgets one."""
        before = dict(self.options)
        self.options = {name: value for name, value in {**before, **given}.items() if value is not None}
        if self.options != before:
            self._write()

    def extend(self, trials: int) -> None:
        """Let a search choose so many members in all.

        Raises
        ------
        UsageError
            When nothing searches, or there are more already.
        """
        if not self.search:
            raise UsageError(
                f"The sweep in {self.directory} does not search: it has its {len(self.members)} members.",
                "Leave out --trials.",
            )
        if trials < len(self.members):
            raise UsageError(
                f"--trials {trials}: the sweep in {self.directory} has {len(self.members)} members already.",
                "It is how many there are to be in all.",
            )
        self.search = {**self.search, "trials": trials}
        self._write()

    def add(self, parameters: Mapping[str, Any]) -> Member:
        """One more member, which is in the folder when this returns."""
        member = self._append(parameters)
        self._write()
        return member

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The sweep that a folder holds.

        Raises
        ------
        UsageError
            When it holds none, or one of a newer nbcloud.
        """
        file = _file(directory)
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            source, members = Path(document["notebook"]), list(document["members"])
            digest = str(document["digest"])
            search, options = document.get("search"), document.get("options")
            known = int(document["format"]) <= FORMAT
            if not all(isinstance(each, dict) for each in [*members, search or {}, options or {}]):
                raise TypeError("a list or a text stands where names and values should be")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{directory} holds no sweep: there is no {file.name} in it.",
                "Name the folder that a sweep was given with -o.",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} can't be read ({error!r}).") from None
        if not known:
            raise UsageError(f"{file} was written by a newer nbcloud.", "pip install -U nbcloud.")
        return cls(source, directory, members, digest, search, options)

    def check_source(self) -> None:
        """Refuse to go on with another notebook than the sweep was begun with."""
        if not self.source.exists():
            raise UsageError(f"The sweep's notebook {self.source} is gone.", "Put it back to go on.")
        if _digest(self.source) != self._digest:
            raise UsageError(
                f"{self.source} has changed since the sweep in {self.directory} was begun.",
                "Begin another sweep (-o FOLDER), so that all its members are of one notebook.",
            )

    def left(self, *, again: bool = False) -> list[Member]:
        """Members that have not ended; with ``again`` those that have failed, too."""
        stages = [(member, member.outcome.stage) for member in self.members]
        return [member for member, stage in stages if not stage.ended or (again and stage is Stage.FAILED)]


def _file(directory: Path) -> Path:
    return directory / "sweep.json"


def _digest(source: Path) -> str:
    return hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest()

"""What is on record, read: runs found by id and by search, their outputs, their text."""

from __future__ import annotations

import contextlib
import difflib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from nbcloud.config import settings
from nbcloud.errors import RunNotFound, UsageError
from nbcloud.redact import Redactor
from nbcloud.runs.artifacts import Artifacts
from nbcloud.runs.database import Database
from nbcloud.runs.experiments import Experiment, experiments
from nbcloud.runs.files import RunFiles, explained
from nbcloud.runs.filters import parse, parse_order
from nbcloud.runs.index import has_words, load, prepare_words, put_all, runs_of
from nbcloud.runs.log import MessageReader
from nbcloud.runs.masked import redact_outputs
from nbcloud.runs.outputs import OutputComposer, TextFlow, outputs_text
from nbcloud.runs.record import Run, RunState, id_number, number_id, prefix_numbers
from nbcloud.runs.search import Search
from nbcloud.runs.tracked import Point, Tracked, history, tracked

_POLL_SECONDS = 0.1
_LISTED = 5  # candidates for an ambiguous id


class Records:
    """The reading half of ``Store``.

    Parameters
    ----------
    directory : Path, optional
        Where the records lie; ``settings().data_dir`` otherwise. It is made at the first use.
    redactor : Redactor, optional
        Takes secrets out of all that is written or read. It may be replaced at any time
        (``store.redactor = …``) when more secrets become known.
    """

    def __init__(self, directory: Path | None = None, redactor: Redactor | None = None) -> None:
        self.directory = Path(directory if directory is not None else settings().data_dir).absolute()
        self.redactor = Redactor() if redactor is None else redactor
        self._database = Database(
            self.directory / "runs.db", prepare_words, lambda connection: put_all(connection, self.directory)
        )

        self.artifacts = Artifacts(self.directory)

    def close(self) -> None:
        """Close all files; the next use opens them again."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def files(self, run_id: str) -> RunFiles:
        """Where the files of a run lie."""
        return RunFiles(self.directory, run_id)

    def get(self, wanted: str) -> Run:
        """The run whose id begins so, or else the newest that has this name.

        Raises
        ------
        RunNotFound
            When there is none; names the nearest.
        UsageError
            When there are several; lists them.
        """
        prefix = wanted.strip().lower()
        if not prefix:
            raise UsageError("The id of a run is empty.", "nbcloud runs lists them.")
        numbers = prefix_numbers(prefix)
        found = numbers and runs_of(
            self._database.read(
                "SELECT document FROM documents WHERE number BETWEEN ? AND ? ORDER BY number DESC LIMIT ?",
                (*numbers, _LISTED + 1),
            )
        )
        if not found or len(found) > 1:
            named = self._newest_named(wanted.strip())
            if named is not None:
                return named
        if not found:
            raise self._not_found(wanted)
        if len(found) > 1:
            raise _ambiguous(prefix, found)
        return found[0]

    def load(self, run_id: str) -> Run | None:
        """The run with this whole id, if it is on record."""
        return self._database.ask(lambda connection: load(connection, run_id))

    def _newest_named(self, name: str) -> Run | None:
        newest = "SELECT MAX(number) FROM runs WHERE name = ? AND deleted IS NULL"
        query = f"SELECT document FROM documents WHERE number = ({newest})"  # noqa: S608
        found = runs_of(self._database.read(query, (name,)))
        return found[0] if found else None

    def search(
        self,
        text: str | None = None,
        *,
        state: RunState | str | Iterable[RunState | str] | None = None,
        notebook: str | None = None,
        session: str | None = None,
        cluster: str | None = None,
        tag: str | Iterable[str] | None = None,
        name: str | None = None,
        since: float | None = None,
        filter: str | None = None,  # noqa: A002 - as MLflow's users know it
        order_by: str | None = None,
        deleted: bool = False,
        limit: int = 50,
    ) -> list[Run]:
        """Runs that meet all conditions, the newest first.

        Parameters
        ----------
        text : str, optional
            Words, or beginnings of words, that must all occur in the name, code, tags or error.
        state : RunState, str, or several of them, optional
            Any of these states.
        notebook, session, cluster : str, optional
            Exactly this.
        tag : str, or several, optional
            ``key`` or ``key=value``.
        name : str, optional
            Exactly this, or a pattern with ``*``.
        since : float, optional
            Created at this time (unix seconds) or later.
        filter : str, optional
            In the language of `nbcloud.runs.filters`: ``metrics.loss < 0.3 and params.lr = 0.1``.
        order_by : str, optional
            ``metrics.loss``, ``params.lr desc``, ``finished``; only runs that have it, the least first.
        deleted : bool, optional
            Those that were put away, in place of the others.
        limit : int, optional
            How many at most.
        """
        search = Search()
        if order_by:
            search.order(*parse_order(order_by))
        if text and text.strip():
            search.words(text, self._database.ask(has_words))
        for column, wanted in (("name", name), ("notebook", notebook), ("session", session)):
            search.where(column, wanted)
        for one in [tag] if isinstance(tag, str) else tag or ():
            search.tag(one)
        search.where("cluster", cluster)
        search.states(_states(state))
        if since is not None:
            search.since(since)
        search.deleted(deleted)
        if filter:
            conditions = parse(filter)
            self._database.ask(lambda connection: search.filter(conditions, connection))
        return runs_of(self._database.read(*search.sql(limit)))

    def tracked(self, runs: Iterable[str]) -> dict[str, Tracked]:
        """What runs have logged up to now, by their ids."""
        numbers = {id_number(run_id): run_id for run_id in runs}
        found = self._database.ask(lambda connection: tracked(connection, numbers))
        return {numbers[number]: of_run for number, of_run in found.items()}

    def experiments(self) -> list[Experiment]:
        """All experiments that have runs, that of the newest run first."""
        return self._database.ask(experiments)

    def parts(self, run_id: str) -> list[str]:
        """All runs that are nested in a run, at any depth."""
        parts = [part for (part,) in self._database.read("SELECT id FROM runs WHERE parent = ?", (run_id,))]
        return [each for part in parts for each in (part, *self.parts(part))]

    def put_away_before(self, when: float) -> list[str]:
        """Runs that were put away at this time or earlier."""
        return [
            run_id for (run_id,) in self._database.read("SELECT id FROM runs WHERE deleted <= ?", (when,))
        ]

    def contents(self) -> set[str]:
        """The hashes of all files that runs have logged, or that were kept with them."""
        logged = self._database.read("SELECT DISTINCT hash FROM items WHERE hash IS NOT NULL")
        kept = self._database.read(
            "SELECT DISTINCT p.value FROM documents d, json_each(d.document, '$.provenance') p"
        )
        return {digest for (digest,) in [*logged, *kept]}

    def artifact(self, run_id: str, name: str) -> Path:
        """The file that a run logged under a name; it must not be changed.

        Raises
        ------
        UsageError
            When the run has none of this name, or it has not come whole.
        """
        run = self.get(run_id)
        known = self.tracked([run.id])[run.id].artifacts
        if name not in known:
            there = f"There are: {', '.join(known)}." if known else "It has logged no file."
            raise UsageError(f"Run {run.id} has no artifact {name!r}.", there)
        path = self.artifacts.path(known[name]["hash"])
        if not path.exists():
            raise UsageError(
                f"The artifact {name!r} of run {run.id} is not here whole.",
                f"While its cluster is up, this fetches it: %cloud attach {run.id}",
            )
        return path

    def history(self, run_id: str, key: str) -> list[Point]:
        """All values of one metric of a run, in the order in which they were logged."""
        number = id_number(self.get(run_id).id)
        return self._database.ask(lambda connection: history(connection, number, key))

    def outputs(self, run_id: str) -> list[dict[str, Any]]:
        """The outputs of a run, in the form of nbformat: until now, where it isn't finished.

        Raises
        ------
        StoreError
            When its run.ipynb is missing or damaged.
        """
        run = self.get(run_id)
        files = self.files(run.id)
        with explained("Reading a run's messages", files.messages), contextlib.suppress(FileNotFoundError):
            return self._composed(files)
        return files.read_outputs()

    def text(self, run_id: str, ansi: bool = False) -> str:
        """The outputs of a run as a terminal would show them; ``ansi`` keeps colours."""
        return outputs_text(self.outputs(run_id), ansi)

    def iter_text(
        self, run_id: str, after: int = 0, follow: bool = False, ansi: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Pieces of the text of a run, each with the number of the message that it comes from.

        Parameters
        ----------
        run_id : str
            Id or beginning of it.
        after : int, optional
            Only messages above this number. A finished run has its text as one piece, with the number of its
            last message.
        follow : bool, optional
            Wait for more until the run has ended.
        ansi : bool, optional
            Keep colours.
        """
        run = self.get(run_id)
        try:
            reader = MessageReader(self.files(run.id).messages, after)
        except FileNotFoundError:
            run = self.get(run.id)
            if after < run.messages:
                yield run.messages, self.text(run.id, ansi)
            return
        with reader:
            flow = TextFlow(ansi)
            while True:
                ended = not follow or self.get(run.id).state.ended  # asked before the last reading, not after
                for message in reader.new():
                    composer = OutputComposer()
                    composer.add(message["msg_type"], message["content"])
                    for output in redact_outputs(self.redactor, composer.outputs()):
                        yield message["n"], flow.add(output)
                if ended:
                    return
                time.sleep(_POLL_SECONDS)

    def _not_found(self, wanted: str) -> RunNotFound:
        recent = [
            number_id(n)
            for (n,) in self._database.read("SELECT number FROM runs ORDER BY number DESC LIMIT 500")
        ]
        near = difflib.get_close_matches(wanted, recent, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        hint += "%cloud runs lists them." if recent else "There are no runs yet."
        return RunNotFound(f"There is no run {wanted!r} on record.", hint, run=wanted)

    def _composed(self, files: RunFiles) -> list[dict[str, Any]]:
        composer = OutputComposer()
        with MessageReader(files.messages) as reader:
            for message in reader.new():
                composer.add(message["msg_type"], message["content"])
        return redact_outputs(self.redactor, composer.outputs())


def _ambiguous(prefix: str, found: list[Run]) -> UsageError:
    listed = ", ".join(f"{run.id} ({run.name or run.state})" for run in found[:_LISTED])
    count, more = (f"More than {_LISTED}", ", …") if len(found) > _LISTED else (len(found), "")
    return UsageError(
        f"{count} runs begin with {prefix!r}: {listed}{more}.",
        "Type more of the id.",
        candidates=[run.id for run in found[:_LISTED]],
    )


def _states(state: RunState | str | Iterable[RunState | str] | None) -> list[RunState]:
    wanted = [state] if isinstance(state, str) else list(state or ())
    try:
        return [RunState(one) for one in wanted]
    except ValueError as error:
        raise UsageError(f"{error}.", f"The states of a run are: {', '.join(RunState)}.") from None

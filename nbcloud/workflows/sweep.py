"""One notebook over many sets of parameters: each a notebook of its own, in one folder that tells all.

::

    sweeps/
        sweep.json      the notebook, and the parameters of every member
        0000.ipynb      the members' outputs: how far each is, its file tells

Nothing else is remembered, so that whatever is killed, the folder is true.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jupyter_core.utils import ensure_event_loop

from nbcloud.clusters.connect import status
from nbcloud.dispatch.links import connect
from nbcloud.errors import NbcloudError, RunError, UsageError
from nbcloud.runs.files import write_atomically
from nbcloud.workflows.manager import PUBLIC
from nbcloud.workflows.notebooks import run_notebook
from nbcloud.workflows.outcome import Outcome, Stage, outcome
from nbcloud.workflows.stopping import Stopping

FORMAT = 1
"""Of sweep.json."""
_TICK = 0.5


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
    """

    def __init__(
        self, source: Path, directory: Path, parameters: Sequence[Mapping[str, Any]], digest: str
    ) -> None:
        self.source = source
        self.directory = directory
        self._digest = digest
        width = max(4, len(str(len(parameters))))
        self.members = [
            Member(number, dict(each), directory / f"{number:0{width}}.ipynb")
            for number, each in enumerate(parameters)
        ]

    @classmethod
    def begin(cls, source: Path, directory: Path, parameters: Sequence[Mapping[str, Any]]) -> Self:
        """Make the folder of a new sweep.

        Raises
        ------
        UsageError
            When the folder holds a sweep already.
        """
        if not parameters:
            raise UsageError("The sweep has no member.", "Write for example: -g lr=0.1,0.01")
        sweep = cls(source, directory, parameters, _digest(source))
        file = _file(directory)
        if file.exists():
            there = cls.open(directory)
            ended = sum(each.outcome.stage.ended for each in there.members)
            raise UsageError(
                f"{directory} holds a sweep of {len(there.members)} members already; {ended} have ended.",
                "To go on with it: --resume. Else choose another folder: -o FOLDER",
            )
        directory.mkdir(parents=True, exist_ok=True)
        document = {
            "format": FORMAT,
            "notebook": str(source.absolute()),
            "digest": sweep._digest,
            "members": [each.parameters for each in sweep.members],
        }
        write_atomically(file, json.dumps(document, indent=1).encode(), sync=False, mode=PUBLIC)
        return sweep

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
            known = document["format"] <= FORMAT and all(isinstance(each, dict) for each in members)
        except FileNotFoundError:
            raise UsageError(f"{directory} holds no sweep: there is no {file.name} in it.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} can't be read ({error!r}).") from None
        if not known:
            raise UsageError(f"{file} was written by a newer nbcloud.", "pip install -U nbcloud.")
        return cls(source, directory, members, digest)

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

    def run(
        self,
        *,
        parallel: int | None = None,
        retries: int = 0,
        again: bool = False,
        ended: Callable[[Member], None] = lambda _: None,
        **options: Any,
    ) -> None:
        """Run all members that have not ended; one that fails does not stop the others.

        Parameters
        ----------
        parallel : int, optional
            How many at once; as many as the cluster has threads by default.
        retries : int
            How often a member that fails is tried again.
        again : bool
            Run those again that have failed.
        ended : callable
            Is given each member that has ended.
        **options
            Those of `run_notebook`.

        Raises
        ------
        KeyboardInterrupt
            After all that runs was stopped; the sweep can be gone on with.
        """
        left = self.left(again=again)
        if not left:
            return
        stopping = Stopping()
        wrong: list[NbcloudError] = []

        def work(member: Member) -> None:
            try:
                self._try(member, stopping, retries, options)
            except NbcloudError as error:  # no cluster, an option that is wrong: it is so for all
                wrong.append(error)
                stopping.stop()
            finally:
                ensure_event_loop().close()  # nbclient's, of this thread

        count = parallel or _threads(options.get("cluster"))
        with ThreadPoolExecutor(min(count, len(left)), thread_name_prefix="nbcloud-sweep") as pool:
            running: dict[Future[None], Member] = {pool.submit(work, member): member for member in left}
            try:
                while running:
                    done, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                        ended(running.pop(future))
            except BaseException:
                stopping.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if wrong:
            raise wrong[0]

    def _try(self, member: Member, stopping: Stopping, retries: int, options: Mapping[str, Any]) -> None:
        """Run a member; what it raises is in its file, and one that was lost may run again."""
        tags = {"sweep": str(self.directory.absolute()), "member": str(member.number)}
        for attempt in range(retries + 1):
            try:
                stopping.check()
                run_notebook(
                    str(self.source),
                    str(member.output),
                    member.parameters,
                    resume=attempt == 0,
                    progress_bar=False,
                    stopping=stopping,
                    **{**options, "tags": {**options.get("tags", {}), **tags}},
                )
            except RunError:
                if attempt == retries or stopping.asked:
                    return
            else:
                return


def _file(directory: Path) -> Path:
    return directory / "sweep.json"


def _digest(source: Path) -> str:
    return hashlib.blake2b(source.read_bytes(), digest_size=16).hexdigest()


def _threads(cluster: str | None) -> int:
    """How many notebooks a cluster runs at once without one in the way of another."""
    workers = status(connect(cluster).info)["workers"]
    return max(1, sum(int(worker["nthreads"]) for worker in workers))

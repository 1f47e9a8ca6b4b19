"""The sessions of one notebook: found or started, watched, and ended."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from nbcloud.clusters.base import Progress, silent
from nbcloud.config import settings
from nbcloud.dispatch.gang import check_workers, gang_name, session_name
from nbcloud.dispatch.identity import Identity
from nbcloud.dispatch.links import compare, connect
from nbcloud.dispatch.options import CellOptions
from nbcloud.errors import ClusterError, ClusterNotFound, NbcloudError, UsageError
from nbcloud.wording import counted, size_text

if TYPE_CHECKING:
    from nbcloud.sessions.client.link import Link
    from nbcloud.sessions.client.session import Session

_SETTLE_SECONDS = 5.0


class Sessions:
    """What one notebook has open on clusters.

    Parameters
    ----------
    identity : Identity
        Which notebook it is.
    namespace : mapping
        Its variables.
    shell : object, optional
        Its IPython shell.
    moment : callable
        Gives a number that changes whenever the notebook's values may have changed.
    tell : callable
        Takes a sentence that the user must read with the next cell.
    """

    def __init__(
        self,
        identity: Identity,
        namespace: MutableMapping[str, Any],
        shell: Any,
        *,
        moment: Callable[[], int],
        tell: Callable[[str], None],
    ) -> None:
        self.on_outside: Callable[[Session, list[dict[str, Any]]], None] | None = None
        self._identity = identity
        self._namespace = namespace
        self._shell = shell
        self._moment = moment
        self._tell = tell
        self._known: dict[tuple[str, str], Session] = {}
        self._used: dict[tuple[str, str], Session] = {}
        self._doubted: dict[str, Future[Any]] = {}
        """Sessions that may be gone, and the question which there are."""

    def of_cell(self, options: CellOptions, progress: Progress = silent) -> Session:
        """The session of a cell: found, or started."""
        name = session_name(self._identity.session, options)
        if options.fresh:
            name = f"{name}-fresh-{secrets.token_hex(3)}"
        self._settle_doubts()
        used = self._used.get((options.cluster or settings().cluster, name))
        if used is not None and not used.lost and not used.link.lost:
            self._check_resources(used, options)
            return used
        try:
            link = connect(options.cluster, progress=progress)
        except ClusterNotFound as error:
            if used is not None and "names" in error.data:
                raise _ended(used.link.info.name) from None
            raise
        known = self._known.get((link.info.id, name))
        if known is not None and not known.lost and not link.lost:
            self._check_resources(known, options)
        else:
            before = next((old for key, old in self._known.items() if key[1] == name and old.lost), None)
            known = self._open(link, name, options, progress)
            self._introduce(known, before)
            for sentence in link.skew:
                self._tell(sentence)
            link.skew = []
        self._used[options.cluster or settings().cluster, name] = known
        return known

    def _open(self, link: Link, name: str, asked: CellOptions | None, progress: Progress) -> Session:
        """Open a session; one that exists as it is, when nothing is asked of it."""
        from nbcloud.sessions.client.session import Session

        ask = secrets.token_hex(8)
        try:
            wanted = self._wanted(name, asked or CellOptions(session=name))
            facts = link.ask("open", ask=ask, timeout=None, phase=progress, **wanted)
            compare(link, facts["packages"])
            hidden = getattr(self._shell, "user_ns_hidden", None)
            session = Session(
                link, facts, self._namespace, hidden=hidden, shell=self._shell, moment=self._moment
            )
            if asked is not None:
                self._check_resources(session, asked)
        except BaseException:  # an interrupt: else the session would get what nobody waits for, and keep it
            link.withdraw(ask)
            raise
        link.listen(session.id, lambda message: self._of_session(session, message))
        for key in [key for key in self._known if key[1] == name]:
            del self._known[key]
        self._known[link.info.id, name] = session
        return session

    def _wanted(self, name: str, options: CellOptions) -> dict[str, Any]:
        """What the journal is asked to open."""
        return {
            "name": name,
            "notebook": self._identity.path,
            "resources": options.resources,
            "memory": options.memory,
            "workers": options.workers or 0,
            "ephemeral": options.fresh,
            "lasting": self._identity.lasting or options.session is not None,
            "over": [known.id for known in self._known.values() if known.over],
        }

    def ask_one_off(self, link: Link, options: CellOptions) -> tuple[str, Future[dict[str, Any]]]:
        """Ask for a session for one run; returns what the question is known by, and the future answer."""
        ask = secrets.token_hex(8)
        name = f"{self._identity.session}-fresh-{secrets.token_hex(3)}"
        return ask, link.ask_soon("open", ask=ask, **self._wanted(name, options))

    def one_off(self, link: Link, facts: dict[str, Any], namespace: MutableMapping[str, Any]) -> Session:
        """The session that such an answer tells of, for a namespace of its own."""
        from nbcloud.sessions.client.session import Session

        compare(link, facts["packages"])
        hidden = getattr(self._shell, "user_ns_hidden", None)
        session = Session(link, facts, namespace, hidden=hidden, shell=self._shell)
        link.listen(session.id, lambda message: self._of_session(session, message))
        return session

    def _introduce(self, session: Session, before: Session | None) -> None:
        """Have the next cell say what its session has, or has no more."""
        if before is not None:
            self._tell(
                f"The session {session.name!r} was lost ({before.lost}). This is a new one; "
                "variables that only it had are gone."
            )
        elif session.resumed:
            names = counted(len(session.names), "name")
            self._tell(
                f"The session {session.name!r} still holds {names} from before: "
                f"{_some(sorted(session.names))}. To begin anew: %cloud reset"
            )

    def _check_resources(self, session: Session, options: CellOptions) -> None:
        check_workers(session, options)
        for resource, wanted in options.resources.items():
            held = session.resources.get(resource, 0)
            if held < wanted:
                flag = {"CPU": "--cpus", "MEMORY": "--memory", "GPU": "--gpus"}[resource]
                text = size_text if resource == "MEMORY" else "{:g}".format
                began = f"with {text(held)}" if held else "without"
                raise UsageError(
                    f"{flag} asks for {text(wanted)}, and the session {session.name!r} was started {began}.",
                    "Name another session (-s NAME), use a one-off (--fresh), or start it anew: %cloud reset",
                )

    def _of_session(self, session: Session, message: dict[str, Any]) -> None:
        match message["op"]:
            case "session_lost" | "cluster_lost":
                session.lost = session.lost or message["why"]
                session.link.forget(session.id)
            case "reconnected" if message["why"]:
                session.lost = session.lost or message["why"]
                session.link.forget(session.id)
            case "reconnected":  # to a journal that knew nothing of us: it may know nothing of the session
                self._doubted[session.id] = session.link.ask_soon("sessions")
            case "outside":
                if self.on_outside is not None:
                    self.on_outside(session, [json.loads(line) for line in message["lines"].splitlines()])

    def _settle_doubts(self) -> None:
        """Find out which sessions are there after a connection was lost for long."""
        for identity, asked in [*self._doubted.items()]:
            with contextlib.suppress(NbcloudError, TimeoutError):
                alive = {facts["id"] for facts in asked.result(_SETTLE_SECONDS)}
                for session in self._known.values():
                    if session.id == identity and identity not in alive:
                        session.lost = session.lost or "it ended while the connection to its cluster was lost"
            del self._doubted[identity]

    def find(self, name: str | None = None) -> Session | None:
        """A session of this notebook that is open: the one named, or the default one."""
        wanted = name or self._identity.session
        return next((s for key, s in self._known.items() if key[1] == wanted and not s.lost), None)

    def find_gang(self) -> Session | None:
        """The sessions of this notebook's cells with ``--workers``, if they live."""
        name = gang_name(self._identity.session)
        return self.find(name) or self.reopen(name)

    def alive(self) -> list[Session]:
        """Sessions of this notebook that are alive as far as is known."""
        return [session for session in self._known.values() if not session.lost]

    def reopen(self, name: str | None = None, cluster: str | None = None) -> Session | None:
        """A session that this kernel has not used yet, if it lives on the cluster, or on the default one."""
        wanted = name or self._identity.session
        try:
            link = connect(cluster, start=False)
        except ClusterError:
            return None
        if wanted not in {facts["name"] for facts in link.ask("sessions")}:
            return None
        return self._open(link, wanted, None, silent)

    def reset(self, session: Session, why: str = "it was reset") -> None:
        """End a session on purpose; the next one needs no word about it."""
        self._known = {key: known for key, known in self._known.items() if known is not session}
        session.link.forget(session.id)
        session.close()
        session.lost = why

    def abandon(self, session: Session) -> None:
        """Give up a session that does not answer; it is closed when its side of the cluster is back."""
        session.lost = "it did not answer"
        session.link.forget(session.id)
        session.link.post("close", session=session.id, ask="")


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, …" if len(names) > most else shown


def _ended(cluster: str) -> ClusterNotFound:
    return ClusterNotFound(
        f"The cluster {cluster!r} of this notebook is gone: it was taken down, or ended by itself.",
        f"Type: %cloud up {cluster}",
    )

"""Sessions that end on purpose: any that a cluster has, whether this notebook knows them or not."""

from __future__ import annotations

from dataclasses import dataclass

from nbcloud.clusters import connect as clusters
from nbcloud.config import settings
from nbcloud.dispatch.gang import gang_name
from nbcloud.dispatch.links import connect
from nbcloud.dispatch.notebook import Notebook
from nbcloud.errors import ClusterError, ClusterNotFound, SessionError, SessionNotFound


@dataclass(frozen=True)
class Ended:
    """A session that was ended.

    Attributes
    ----------
    name : str
    state : str
        What it was until then: ``"ready"`` or ``"starting"``.
    cluster : str
    """

    name: str
    state: str
    cluster: str


def end_session(notebook: Notebook, name: str, cluster: str | None = None) -> Ended:
    """End the session of a name; without a cluster the notebook's own, else that of the default cluster.

    Raises
    ------
    SessionNotFound
        Names the sessions that there are.
    """
    found = _end(notebook, name, cluster)
    if found is not None:
        return found
    where = cluster or settings().cluster
    try:
        link = connect(cluster, start=False)
    except ClusterNotFound:
        raise SessionNotFound(f"There is no session {name!r}: no cluster {where!r} is up.") from None
    names = ", ".join(facts["name"] for facts in link.ask("sessions")) or "none"
    raise SessionNotFound(
        f"The cluster {link.info.name!r} has no session {name!r}; there are: {names}.",
        "Sessions of another cluster: %cloud reset NAME -c CLUSTER",
    )


def end_own(notebook: Notebook, cluster: str | None = None) -> list[Ended]:
    """End the notebook's own session, and that of its cells with ``--workers``.

    Raises
    ------
    SessionNotFound
        When it has neither.
    """
    own = notebook.identity.session
    ended = [_end(notebook, name, cluster) for name in (own, gang_name(own))]
    found = [each for each in ended if each is not None]
    if not found:
        raise SessionNotFound("This notebook has no session yet.", "The first %%cloud cell starts one.")
    return found


def _end(notebook: Notebook, name: str, cluster: str | None) -> Ended | None:
    here = None if cluster is None else clusters.resolve(cluster, start=False).id
    mine = (session for session in notebook.sessions.alive() if session.name == name)
    known = next((session for session in mine if here in {None, session.link.info.id}), None)
    if known is not None:
        notebook.sessions.reset(known)
        return Ended(name, "ready", known.link.info.name)
    try:
        link = connect(cluster, start=False)
    except ClusterError:
        if cluster is not None:
            raise
        return None
    facts = next((facts for facts in link.ask("sessions") if facts["name"] == name), None)
    if facts is None:
        return None
    try:
        link.ask("close", session=facts["id"])
    except SessionError:  # it ended by itself meanwhile
        return None
    return Ended(name, facts["state"], link.info.name)

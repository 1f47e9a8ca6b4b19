"""Models on their way to MLflow's registry: versions that were exported in a run, and what is said of them.

The run of an export says which version it made, and in which registry. MLflow's knows a version by the hash
of its file, so it is registered there once, whoever does it, and its number there is kept with what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbcloud.errors import ModelNotFound
from nbcloud.models.registry import Registry
from nbcloud.models.registry.reference import Reference
from nbcloud.models.registry.tracking import OURS, STAGE, push
from nbcloud.models.registry.tracking import Reference as Theirs
from nbcloud.runs.mirror.client import ask, told
from nbcloud.runs.mirror.feed import SCHEME, Feed, Sent
from nbcloud.runs.record import EXPORT, Run, RunState

if TYPE_CHECKING:
    from nbcloud.models.registry import Version
    from nbcloud.models.registry.state import State

Place = Callable[[str], str]
"""What a run here is called there; empty where it is not there."""


class Models:
    """Registers versions, and moves aliases.

    Parameters
    ----------
    feed : Feed
    client : mlflow.MlflowClient
    target : str
        As the setting ``tracking`` names it.
    """

    def __init__(self, feed: Feed, client: Any, target: str) -> None:
        self.fresh = True
        """Whether aliases, tags and stages may be others now."""
        self._feed = feed
        self._client = client
        self._address = target.removeprefix(SCHEME)

    def register(self, run: Run, sent: Sent, place: Place) -> Sent:
        """Register what an export has made, in the run that it came from."""
        uri = run.tags.get("model", "")
        if run.kind != EXPORT or run.state is not RunState.DONE or not uri:
            return sent
        self.fresh = True
        if uri in sent.artifacts:
            return sent
        version = _version(run, uri)
        if version is None:
            return sent
        origin = place(version.entry.run) if version.entry.run != run.id else ""
        made = push(version, Theirs(""), self._address, run=origin or sent.id)
        return replace(sent, artifacts={**sent.artifacts, uri: str(made.version)})

    def follow(self) -> None:
        """Have aliases, tags and stages there be what they are here, of all models registered from here.

        Raises
        ------
        Away
            When MLflow does not answer.
        """
        self.fresh = False
        numbers: dict[tuple[str | None, str], dict[int, str]] = {}
        latest: dict[tuple[str | None, str], int] = {}
        for number, root, versions in self._feed.exported():
            for uri, theirs in versions.items():
                reference = Reference.parse(uri)
                model = root, reference.name
                numbers.setdefault(model, {})[reference.version or 0] = theirs
                latest[model] = number
        for (root, name), known in numbers.items():
            try:
                state = Registry(root).state(name)
                self._move_aliases(state, known)
                self._set_tags(state, known)
            except ModelNotFound:
                continue
            except Exception as error:  # noqa: BLE001 - MLflow's, of whatever it uses to reach its server
                ask(self._client)
                number = latest[root, name]
                why = f"Aliases and tags of {name}: {told(error)}"
                self._feed.keep(number, replace(self._feed.sent(number) or Sent(), trouble=why))

    def _move_aliases(self, state: State, known: dict[int, str]) -> None:
        name = state.name
        there = self._client.get_registered_model(name).aliases
        for alias, past in state.aliases.items():
            meant = known.get(past[-1], "") if past else ""
            now = str(there.get(alias, ""))
            if meant and now != meant:
                self._client.set_registered_model_alias(name, alias, meant)
            elif past and not past[-1] and now in known.values():
                self._client.delete_registered_model_alias(name, alias)

    def _set_tags(self, state: State, known: dict[int, str]) -> None:
        """Those that others have set there stay."""
        for number, theirs in known.items():
            entry = state.alive.get(number)
            if entry is None:
                continue
            there = self._client.get_model_version(state.name, theirs).tags
            wanted = dict(entry.tags)
            if entry.stage != "none" or STAGE in there:
                wanted[STAGE] = entry.stage
            ours = json.loads(there.get(OURS, "[]"))
            for key in set(ours).difference(entry.tags):
                self._client.delete_model_version_tag(state.name, theirs, key)
            wanted[OURS] = json.dumps(sorted(entry.tags))
            for key, value in wanted.items():
                if there.get(key) != value:
                    self._client.set_model_version_tag(state.name, theirs, key, value)


def _version(run: Run, uri: str) -> Version | None:
    """The version that a run has made, if it is still there."""
    try:
        return Registry(run.extra.get("registry")).get(uri)
    except ModelNotFound:
        return None

"""One run to MLflow: whatever of it is not there yet, so that it may be done again at any time.

What was sent when a process died is not known. So the intention is on record before each step that would
double something when it were repeated, the making of a run and a batch of values; where one is found there,
MLflow is asked how much of it has come.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any

from nbcloud.errors import RunNotFound
from nbcloud.redact import Redactor
from nbcloud.runs.mirror.facts import (
    RUN_TAG,
    Point,
    milliseconds,
    name_of,
    point,
    status_of,
    tags_of,
)
from nbcloud.runs.mirror.feed import Feed, Sent
from nbcloud.runs.mirror.files import Files
from nbcloud.runs.mirror.models import Models
from nbcloud.runs.record import IMPORTED, Run, id_number, is_run_id, number_id
from nbcloud.runs.store import Store
from nbcloud.runs.tracked import Tracked

_VALUES, _TAGS = 1000, 100  # in one request, at most
_FETCHED = 100_000
_TEXT = 6000
_DIGEST = 36
_UNKNOWN = 2**62
"""In place of what was being sent, where anything may be there."""


class Sender:
    """Sends runs of a store.

    Parameters
    ----------
    store : Store
    feed : Feed
    client : mlflow.MlflowClient
    models : Models
    redactor : Redactor
        Takes secrets out of what is not on record, and so not masked yet.
    """

    def __init__(self, store: Store, feed: Feed, client: Any, models: Models, redactor: Redactor) -> None:
        self._store = store
        self._feed = feed
        self._client = client
        self._models = models
        self._files = Files(store, client, redactor)
        self._experiments: dict[str, str] = {}
        self._since = feed.since()

    def send(self, number: int) -> None:
        """Bring a run there as it is now; one that was removed meanwhile, or came from MLflow, is left."""
        try:
            run = self._store.get(number_id(number))
        except RunNotFound:
            return
        if run.kind == IMPORTED:
            return
        sent = self._feed.sent(number)
        if run.deleted is not None:
            self._put_away(number, sent)
            return
        sent = self._begun(run, sent)
        there = self._client.get_run(sent.id)
        tracked = self._store.tracked([run.id])[run.id]
        self._send_texts(run, tracked, there)
        sent = self._send_values(run, sent)
        sent = self._files.send(run, tracked, sent, lambda sent: self._feed.keep(number, sent))
        self._send_datasets(tracked, there)
        self._send_state(run, there)
        registered = self._models.register(run, sent, self._place)
        if registered != sent or sent.trouble:
            self._keep(number, registered, trouble="")

    def _keep(self, number: int, sent: Sent, **changes: Any) -> Sent:
        sent = replace(sent, **changes)
        self._feed.keep(number, sent)
        return sent

    def _put_away(self, number: int, sent: Sent | None) -> None:
        if sent is not None and sent.id and not sent.gone:
            self._client.delete_run(sent.id)
            self._keep(number, sent, gone=True, trouble="")

    def _begun(self, run: Run, sent: Sent | None) -> Sent:
        """The run, made there where it is not yet."""
        number = id_number(run.id)
        if sent is not None and sent.id and sent.experiment != run.experiment:
            # No run goes from one experiment to another there: it is made again.
            with contextlib.suppress(Exception):  # it is gone there already
                self._client.delete_run(sent.id)
            sent = self._keep(number, Sent(experiment=run.experiment))
        if sent is None or not sent.id:
            in_doubt = sent is not None or run.created < self._since
            sent = self._keep(number, sent or Sent(), experiment=run.experiment)
            found = self._found(run) if in_doubt else ""
            sent = self._keep(
                number, sent, id=found or self._make(run), sending=_UNKNOWN if found else sent.sending
            )
        if sent.gone:
            self._client.restore_run(sent.id)
            sent = self._keep(number, sent, gone=False)
        return sent

    def _make(self, run: Run) -> str:
        made = self._client.create_run(
            self._experiment(run.experiment),
            start_time=milliseconds(run.started or run.created),
            tags=tags_of(run, self._parent(run)),
            run_name=_named(run),
        )
        return str(made.info.run_id)

    def _found(self, run: Run) -> str:
        """What the run is called there, if it is there."""
        about = f"tags.`{RUN_TAG}` = '{run.id}'"
        found = self._client.search_runs([self._experiment(run.experiment)], about, max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _parent(self, run: Run) -> str:
        """What the run in which it is nested is called there; that one goes first."""
        return self._place(run.parent)

    def _place(self, run_id: str) -> str:
        """What a run is called there, which it is made for; empty where it has no business there."""
        above = self._store.load(run_id) if is_run_id(run_id) else None
        if above is None or above.deleted is not None or above.kind == IMPORTED:
            return ""
        return self._begun(above, self._feed.sent(id_number(above.id))).id

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                try:
                    self._experiments[name] = self._client.create_experiment(name)
                except Exception:  # another process has just made it, or else this is the reason
                    found = self._client.get_experiment_by_name(name)
                    if found is None:
                        raise
            if found is not None:
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _send_texts(self, run: Run, tracked: Tracked, there: Any) -> None:
        """Params and tags. Params don't change there: what has changed here is a tag."""
        from mlflow.entities import Param, RunTag

        known = there.data.params
        params = {name_of(key): _text(value)[:_TEXT] for key, value in tracked.params.items()}
        tags = tags_of(run, self._parent(run))
        for key, value in params.items():
            if known.get(key, value) != value:
                tags[name_of(f"nbcloud.param.{key}"[:250])] = value[:5000]
        new = [Param(key, value) for key, value in params.items() if key not in known]
        changed = [RunTag(key, value) for key, value in tags.items() if there.data.tags.get(key) != value]
        for start in range(0, max(len(new), len(changed)), _TAGS):
            some = slice(start, start + _TAGS)
            self._client.log_batch(there.info.run_id, params=new[some], tags=changed[some])

    def _send_values(self, run: Run, sent: Sent) -> Sent:
        """Values of metrics, in their order."""
        from mlflow.entities import Metric

        number = id_number(run.id)
        if run.state.ended and self._feed.count(number, sent.place) != sent.count:
            # What a process that died had not put on record came behind what another did.
            sent = self._keep(number, sent, place=-1, count=0, sending=_UNKNOWN)
        there: dict[str, Counter[Point]] = {}
        while rows := self._feed.values(number, sent.place, _FETCHED):
            for start in range(0, len(rows), _VALUES):
                some = rows[start : start + _VALUES]
                last = some[-1][0]
                lacking = self._lacking(number, sent, some, there) if sent.sending > sent.place else some
                sent = self._keep(number, sent, sending=max(sent.sending, last))
                metrics = [
                    Metric(
                        name_of(key), float("nan") if value is None else value, milliseconds(time), step or 0
                    )
                    for _, key, step, time, value in lacking
                ]
                if metrics:
                    self._client.log_batch(sent.id, metrics=metrics)
                sent = self._keep(number, sent, place=last, count=sent.count + len(some))
        return sent if sent.sending <= sent.place else self._keep(number, sent, sending=sent.place)

    def _lacking(
        self, number: int, sent: Sent, rows: list[Any], there: dict[str, Counter[Point]]
    ) -> list[Any]:
        """Those of the values that have not come; ``there`` is kept from one call to the next."""
        lacking = []
        for row in rows:
            _, key, step, time, value = row
            if key not in there:
                came = self._client.get_metric_history(sent.id, name_of(key))
                there[key] = Counter(point(each.step, each.timestamp, each.value) for each in came)
                there[key] -= Counter(
                    point(step, milliseconds(time), value)
                    for step, time, value in self._feed.before(number, key, sent.place)
                )
            found = point(step, milliseconds(time), value)
            if there[key][found] > 0:
                there[key][found] -= 1
            else:
                lacking.append(row)
        return lacking

    def _send_datasets(self, tracked: Tracked, there: Any) -> None:
        from mlflow.entities import Dataset, DatasetInput

        inputs = there.inputs.dataset_inputs if there.inputs else []
        known = {(each.dataset.name, each.dataset.digest) for each in inputs}
        new = []
        for name, facts in tracked.datasets.items():
            digest = facts["hash"][:_DIGEST]
            if (name, digest) not in known:
                source = json.dumps({"sha256": facts["hash"], "kind": facts["kind"]})
                profile = json.dumps({"num_rows": facts["rows"]}) if "rows" in facts else None
                schema = json.dumps(facts.get("schema"))
                new.append(DatasetInput(Dataset(name, digest, "nbcloud", source, schema, profile), []))
        if new:
            self._client.log_inputs(there.info.run_id, new)

    def _send_state(self, run: Run, there: Any) -> None:
        info, state = there.info, status_of(run.state)
        if info.run_name != _named(run):
            self._client.update_run(info.run_id, name=_named(run))
        if not run.state.ended:
            if info.status != state:
                self._client.update_run(info.run_id, status=state)
            return
        ended = milliseconds(run.finished or run.started or run.created)
        if (info.status, info.end_time) != (state, ended):
            self._client.set_terminated(info.run_id, state, ended)


def _named(run: Run) -> str:
    return run.name or f"{run.kind} {run.id}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

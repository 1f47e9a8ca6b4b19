"""The files of a run on their way to MLflow: what it logged, and, when it has ended, what its cells said."""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nbcloud.errors import StoreError
from nbcloud.redact import Redactor
from nbcloud.runs.files import dump
from nbcloud.runs.mirror.facts import name_of
from nbcloud.runs.mirror.feed import Sent
from nbcloud.runs.outputs import outputs_text
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
from nbcloud.runs.tracked import Tracked

_FOLDER = "nbcloud"
"""Of what the run has not logged itself."""


class Files:
    """Sends files.

    Parameters
    ----------
    store : Store
    client : mlflow.MlflowClient
    redactor : Redactor
        Takes secrets out of what is not on record, and so not masked yet.
    """

    def __init__(self, store: Store, client: Any, redactor: Redactor) -> None:
        self._store = store
        self._client = client
        self._redactor = redactor

    def send(self, run: Run, tracked: Tracked, sent: Sent, keep: Callable[[Sent], object]) -> Sent:
        """Send what is not there yet; ``keep`` puts on record how far it has got."""
        for name, facts in tracked.artifacts.items():
            source = self._store.artifacts.path(facts["hash"])
            if sent.artifacts.get(name) != facts["hash"] and source.exists():
                self._log(sent.id, name_of(name), partial(Path.symlink_to, target=source))
                sent = _noted(sent, name, facts["hash"], keep)
        for name, content in self._texts(run, tracked):
            path = f"{_FOLDER}/{name}"
            if sent.artifacts.get(path) != (stamp := hashlib.sha256(content).hexdigest()):
                self._log(sent.id, path, partial(Path.write_bytes, data=content))
                sent = _noted(sent, path, stamp, keep)
        return sent

    def _log(self, run_id: str, path: str, put: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="nbcloud-mirror-") as folder:
            file = Path(folder) / posixpath.basename(path)
            put(file)
            self._client.log_artifact(run_id, str(file), posixpath.dirname(path) or None)

    def _texts(self, run: Run, tracked: Tracked) -> Iterator[tuple[str, bytes]]:
        """Recorded values, the notebook of a run that has ended, and what its cells printed."""
        for name, content in tracked.records.items():
            yield f"records/{name_of(name).replace('/', '_')}.json", json.dumps(content).encode()
        path = self._store.files(run.id).notebook
        if not run.state.ended or not path.exists():  # which comes a moment after the end
            return
        outputs: list[dict[str, Any]] = []
        with contextlib.suppress(StoreError):  # it is damaged: what there is of it goes as it is
            outputs = self._store.outputs(run.id)
        if run.code or outputs:
            yield "run.ipynb", self._executed(run) or path.read_bytes()
        if text := outputs_text(outputs):
            yield "output.txt", text.encode(errors="replace")

    def _executed(self, run: Run) -> bytes:
        """The file that a notebook has become, if it is still that of this run; empty otherwise."""
        if run.kind != "notebook" or not run.extra.get("output"):
            return b""
        try:
            notebook = json.loads(
                Path(run.extra.get("cwd", ""), run.extra["output"]).read_text(encoding="utf-8")
            )
            if notebook["metadata"]["papermill"]["run"] != run.id:
                return b""
        except (OSError, ValueError, KeyError, TypeError):
            return b""
        return dump(self._redactor.json(notebook))


def _noted(sent: Sent, path: str, stamp: str, keep: Callable[[Sent], object]) -> Sent:
    sent = replace(sent, artifacts={**sent.artifacts, path: stamp})
    keep(sent)
    return sent

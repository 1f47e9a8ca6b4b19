"""MLflow's client, in a process that is ours alone: it sets what MLflow reads of the environment."""

from __future__ import annotations

import os
import warnings
from typing import Any

from nbcloud import extras
from nbcloud.runs.mirror.feed import SCHEME

_SETTINGS = {
    # Its own patience with a server that is away is minutes; here somebody else has the patience.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
_NAMES = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


class Away(Exception):
    """MLflow does not answer, or lets nobody in."""


def connect(target: str, purpose: str) -> Any:
    """A client of an MLflow server, or of a folder.

    Raises
    ------
    MissingExtra
        When MLflow is not installed here.
    """
    extras.check("mlflow", purpose)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    uri = target.removeprefix(SCHEME)
    warnings.simplefilter("ignore")  # its import's, and those of what it imports
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def ask(client: Any) -> None:
    """See whether MLflow answers.

    Raises
    ------
    Away
        When it does not.
    """
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        raise Away(told(error)) from error


def told(error: BaseException) -> str:
    """What MLflow says, or the lowest library below it, as a sentence of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "error code 401" in text or "error code 403" in text:
        return f"it lets nobody in without a name or token, or not this one: {_NAMES}."
    if "Caused by " in text:
        text = text.rpartition(": ")[2].rstrip("'\")")
    text = text.partition(" Response body: '<")[0]  # a page for people
    return f"{text[:300].rstrip('.')}."

"""The files of a run of MLflow's, and of the models that it logged: listed, and brought one at a time."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbcloud.runs.artifacts import Artifacts

_FILE = "file"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a run.

    Attributes
    ----------
    name : str
        As the run names it.
    size : int
        Bytes, as its server says.
    path : str
        Below that part of MLflow's store in which it lies.
    repository : mlflow.store.artifact.ArtifactRepository
    """

    name: str
    size: int
    path: str
    repository: Any


class Refused(Exception):
    """A name that leads out of the run, or a link that does."""


def files_of(there: Any, client: Any, address: str, folder: Path | None) -> Iterator[RemoteFile | Refused]:
    """All files of a run; in place of those that are not to be touched, why.

    Parameters
    ----------
    there : mlflow.entities.Run
    client : mlflow.MlflowClient
    address : str
    folder : Path or None
        The one that it all lies in, where it is no server that is asked.
    """
    base = there.info.artifact_uri
    if folder is not None:
        # A folder that was moved still says where it had been.
        inside = folder / there.info.experiment_id / there.info.run_id / "artifacts"
        base = inside.as_uri() if inside.is_dir() else base
    yield from _walk(_repository(base, address), "", "", folder)
    for output in there.outputs.model_outputs if there.outputs else []:
        model = client.get_logged_model(output.model_id)
        yield from _walk(_repository(model.artifact_location, address), "", model.name, folder)


def bring(file: RemoteFile, artifacts: Artifacts) -> dict[str, Any]:
    """Bring a file here; returns the facts of an artifact."""
    with tempfile.TemporaryDirectory(prefix="nbcloud-import-") as folder:
        # Of MLflow's repositories, this is the one way that puts one file at a path of ours, block by block.
        local = Path(folder) / _FILE
        file.repository._download_file(file.path, str(local))
        digest, size = artifacts.keep(local)
    return {"hash": digest, "bytes": size}


def _repository(address: str, tracking: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(address, tracking_uri=tracking, registry_uri=tracking)


def _walk(repository: Any, path: str, prefix: str, folder: Path | None) -> Iterator[RemoteFile | Refused]:
    for each in repository.list_artifacts(path or None):
        name = posixpath.join(prefix, each.path)
        inside = posixpath.dirname(each.path) == path and _is_plain(name)
        if not inside or _leads_out(repository, each, folder):
            yield Refused(f"the name {name!r} leads out of the run")
        elif each.is_dir:
            yield from _walk(repository, each.path, prefix, folder)
        else:
            yield RemoteFile(name, each.file_size or 0, each.path, repository)


def _is_plain(name: str) -> bool:
    """Whether a name is a path below wherever it is put, on all systems."""
    parts = name.replace("\\", "/").split("/")
    return all(part not in {"", ".", ".."} and "\0" not in part for part in parts) and ":" not in parts[0]


def _leads_out(repository: Any, file: Any, folder: Path | None) -> bool:
    """Whether a link leads out of the folder that somebody has handed over."""
    if folder is None or not hasattr(repository, "artifact_dir"):
        return False
    here = Path(repository.artifact_dir) / file.path
    return here.is_symlink() and not here.resolve().is_relative_to(folder.resolve())

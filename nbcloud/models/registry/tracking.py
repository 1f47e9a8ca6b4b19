"""MLflow's registry as sink and source: versions go there as its ONNX flavour, and come back from it.

Only that flavour is read, as plain files: nothing is unpickled, and no code that lies beside it is run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud import __version__, extras
from nbcloud.errors import ModelError, ModelNotFound, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import KEY
from nbcloud.models.signature import TEXT, Tensor

if TYPE_CHECKING:
    from nbcloud.models.registry.version import Version

SCHEME = "mlflow:"
_REFERENCE = re.compile(
    rf"{SCHEME}(?:models:/)?(?P<name>[^/@:#]*)(?:/(?P<version>[0-9]{{1,9}})|@(?P<alias>[\w.-]+))?"
)
_FILE, _FOLDER = "model.onnx", "model"
_DIGEST, _SOURCE = "nbcloud.sha256", "nbcloud.model"
STAGE, OURS = "nbcloud.stage", "nbcloud.tags"
"""Tags of a version there: its stage here, and which of its other tags are from here."""


@dataclass(frozen=True)
class Reference:
    """A model of MLflow's registry: ``mlflow:digits@champion``, ``mlflow:digits/3``, ``mlflow:digits``."""

    name: str
    version: int | None = None
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises
        ------
        UsageError
            When it is none.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r} names no model of MLflow.", "Write for example: mlflow:digits@champion"
            )
        version = found["version"]
        return cls(found["name"], int(version) if version else None, found["alias"] or "")

    def __str__(self) -> str:
        which = f"/{self.version}" if self.version is not None else f"@{self.alias}" if self.alias else ""
        return f"{SCHEME}{self.name}{which}"


@dataclass(frozen=True)
class Pulled:
    """A version of MLflow's registry, on this machine.

    Parameters
    ----------
    path : Path
        Its ONNX file.
    reference : Reference
        With its number.
    tags : dict
    verified : bool
        Whether it is what nbcloud pushed, to the byte, with what it says of itself.
    """

    path: Path
    reference: Reference
    tags: dict[str, str]
    verified: bool


def push(version: Version, target: Reference, tracking: str | None = None, run: str = "") -> Reference:
    """Register a version in MLflow's registry; one that is there already is not registered twice.

    Parameters
    ----------
    target : Reference
        The name there, the version's own where it is empty; an alias that is to mean it.
    tracking : str, optional
        MLflow's address; that of the environment otherwise.
    run : str, optional
        A run there that is to have its files; one of its own otherwise.

    Raises
    ------
    ModelError
        When MLflow can't be reached, or refuses.
    """
    if target.version is not None:
        raise UsageError(f"MLflow numbers its versions itself: {target}.", f"Write: {SCHEME}{target.name}")
    name = target.name or version.name
    client, uri = _client(tracking)
    with _explained(uri):
        from mlflow.exceptions import MlflowException

        source = version.path()
        digest = onnxfile.digest(source)
        there = _pushed(client, name, digest)
        if there is None:
            with contextlib.suppress(MlflowException):  # it is there already; another reason comes below
                client.create_registered_model(name)
            if run:  # which may have made several
                where = f"{_FOLDER}/{version.name}-{version.number}"
                there = _create(client, name, version, source, digest, run, where)
            else:
                there = _create_alone(client, name, version, source, digest)
        if target.alias:
            client.set_registered_model_alias(name, target.alias, str(there))
    return Reference(name, there, target.alias)


def pull(wanted: Reference, folder: Path, tracking: str | None = None) -> Pulled:
    """Bring the ONNX file of a version of MLflow's registry here.

    Raises
    ------
    ModelNotFound
        When MLflow has no such model, version or alias.
    ModelError
        When it is of another flavour, or not what it was when nbcloud pushed it.
    """
    if not wanted.name:
        raise UsageError(f"{SCHEME} names no model.", f"Write for example: {SCHEME}digits@champion")
    client, uri = _client(tracking)
    with _explained(uri):
        found = _found(client, wanted, uri)
        exact = Reference(wanted.name, int(found.version), wanted.alias)
        from mlflow.artifacts import download_artifacts

        address = client.get_model_version_download_uri(wanted.name, str(found.version))
        local = Path(
            download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=uri, registry_uri=uri)
        )
    path = _onnx_file(local, exact)
    tags = {key: str(value) for key, value in found.tags.items()}
    properties = {each.key for each in onnxfile.load(path, weights=False).metadata_props}
    digest = tags.get(_DIGEST)
    if digest is not None and digest != onnxfile.digest(path):
        raise ModelError(
            f"The file of {exact} is not what it was when nbcloud pushed it.", "Push the model again."
        )
    verified = digest is not None and KEY in properties
    own = {key: value for key, value in tags.items() if not key.startswith(("nbcloud.", "mlflow."))}
    return Pulled(path, exact, own, verified)


def _client(tracking: str | None) -> tuple[Any, str]:
    extras.check("mlflow", "to use MLflow's registry")
    uri = tracking or os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UsageError(
            "It is not said where MLflow is.", "Set MLFLOW_TRACKING_URI, or give --tracking ADDRESS."
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # we tell of progress ourselves
    with _explained(uri):
        from mlflow import MlflowClient

        where = tracking or os.environ.get("MLFLOW_TRACKING_URI") or uri
        return MlflowClient(tracking_uri=where, registry_uri=uri), uri


def _pushed(client: Any, name: str, digest: str) -> int | None:
    """The version that has this file already."""
    found = client.search_model_versions(f"name = '{name}'")
    return next((int(each.version) for each in found if each.tags.get(_DIGEST) == digest), None)


def _create_alone(client: Any, name: str, version: Version, source: Path, digest: str) -> int:
    """A run with the files, and a version of the registry that is in it."""
    experiment = client.get_experiment_by_name("nbcloud")
    number = experiment.experiment_id if experiment else client.create_experiment("nbcloud")
    run = client.create_run(number, run_name=f"{version.name}-{version.number}").info.run_id
    try:
        made = _create(client, name, version, source, digest, run, _FOLDER)
        for key, value in version.metadata.metrics.items():
            client.log_metric(run, key, value)
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)
    return made


def _create(client: Any, name: str, version: Version, source: Path, digest: str, run: str, where: str) -> int:
    """A version of the registry whose files are among those of a run."""
    metadata = version.metadata
    tags = {**version.entry.tags, _DIGEST: digest, _SOURCE: version.uri}
    tags[OURS] = json.dumps(sorted(version.entry.tags))
    tags |= {f"nbcloud.metric.{key}": str(value) for key, value in metadata.metrics.items()}
    if version.entry.run:
        tags["nbcloud.run"] = version.entry.run
    with tempfile.TemporaryDirectory(prefix="nbcloud-mlflow-") as folder:
        written = Path(folder) / _FOLDER
        _write(written, version, source, run, where)
        client.log_artifacts(run, str(written), where)
    made = client.create_model_version(
        name,
        f"{client.get_run(run).info.artifact_uri}/{where}",
        run_id=run,
        tags=tags,
        description=f"{version.uri} of nbcloud: {metadata.framework}, {metadata.exporter}",
    )
    return int(made.version)


def _write(folder: Path, version: Version, source: Path, run: str, where: str) -> None:
    """A model's folder as MLflow has it; the ONNX file is the registry's, to the byte."""
    import yaml

    folder.mkdir()
    for file in onnxfile.files(source)[1:]:
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(source, folder / _FILE)
    metadata = version.metadata
    flavors: dict[str, Any] = {
        "onnx": {
            "data": _FILE,
            "onnx_version": _version("onnx"),
            "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
            "onnx_session_options": None,
            "code": None,
        }
    }
    # Who loads it as a function feeds the graph, and would leave the steps before it out.
    if not metadata.preprocessing:
        flavors["python_function"] = {
            "loader_module": "mlflow.onnx",
            "data": _FILE,
            "env": {"virtualenv": "python_env.yaml"},
            "python_version": ".".join(map(str, sys.version_info[:3])),
        }
    signature = metadata.signature
    document = {
        "artifact_path": where,
        "flavors": flavors,
        "metadata": {"nbcloud": __version__},
        "mlflow_version": _version("mlflow-skinny") or _version("mlflow"),
        "model_uuid": uuid.uuid4().hex,
        "run_id": run,
        "signature": {
            "inputs": json.dumps([_spec(each) for each in signature.inputs]),
            "outputs": json.dumps([_spec(each) for each in signature.outputs]),
            "params": None,
        },
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(document), encoding="utf-8")
    needs = [f"{package}=={_version(package)}" for package in ("onnx", "onnxruntime")]
    (folder / "requirements.txt").write_text("\n".join(["mlflow", *needs]) + "\n")
    python = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "dependencies": ["-r requirements.txt"],
    }
    (folder / "python_env.yaml").write_text(yaml.safe_dump(python))


def _spec(tensor: Tensor) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    dtype = "object" if tensor.dtype == TEXT else tensor.dtype
    return {"name": tensor.name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


def _version(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _found(client: Any, wanted: Reference, uri: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        if wanted.alias:
            return client.get_model_version_by_alias(wanted.name, wanted.alias)
        if wanted.version is not None:
            return client.get_model_version(wanted.name, str(wanted.version))
        newest = max(
            client.search_model_versions(f"name = '{wanted.name}'"),
            key=lambda each: int(each.version),
            default=None,
        )
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        newest = None
    if newest is None:
        raise ModelNotFound(
            f"MLflow at {uri} has no {wanted}.", "Look into its page of models, or name another."
        )
    return newest


def _onnx_file(folder: Path, reference: Reference) -> Path:
    """The ONNX file of MLflow's ONNX flavour."""
    import yaml

    try:
        document = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        flavors = dict(document["flavors"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ModelError(
            f"{reference} has no MLmodel that can be read ({type(error).__name__}).", "Log the model again."
        ) from error
    if "onnx" not in flavors:
        others = ", ".join(sorted(set(flavors) - {"python_function"})) or "python_function"
        raise ModelError(
            f"{reference} is of the flavour {others}, which would have to be unpickled.",
            "Load it where it is trusted, and export it: nbcloud.export(model, sample, name)",
        )
    data = str(flavors["onnx"].get("data", ""))
    path = folder / data
    if not data or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ModelError(f"{reference} names {data!r} as its ONNX file, which it has not.", "Log it again.")
    return path


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """MLflow's own errors as one of ours; its import warns of what is none of the user's business."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ModelError, UsageError):
            raise
        except Exception as error:
            if not type(error).__module__.startswith(("mlflow.", "sqlalchemy.", "requests.", "urllib3.")):
                raise
            told = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"MLflow at {uri} says: {told[:300].rstrip('.')}.") from error

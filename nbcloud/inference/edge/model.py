"""A bundle's model: everything is checked, then it may answer."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from nbcloud.errors import BundleError, ModelError, NbcloudError
from nbcloud.models.bundle import golden, postprocess, trust
from nbcloud.models.bundle.archive import MANIFEST, Archive
from nbcloud.models.bundle.manifest import Manifest
from nbcloud.models.reading import Reader
from nbcloud.models.signature import Feeds, Tensor

_WEIGHTS = "session.model_external_initializers_file_folder_path"


def load(
    path: str | Path,
    *,
    trusted: Path | None = None,
    threads: int | None = None,
    arena: bool = True,
) -> EdgeModel:
    """Check a bundle, and make its model ready.

    Parameters
    ----------
    path : path
    trusted : path, optional
        A folder of public keys: the bundle must be signed by one. By default the user's folder, where that
        has keys; without any, bundles need no signature.
    threads : int, optional
        That one answer may use; onnxruntime's default is one for each core.
    arena : bool
        Whether memory of one answer is kept for the next: faster, and more of it.

    Raises
    ------
    BundleError
        Says what about the bundle is wrong; nothing of it was used.
    """
    with Archive(Path(path)) as archive:
        manifest, signer = checked(archive, trusted)
        _check_runtime(manifest)
        session = _session(archive, manifest, threads, arena)
        samples = {
            name: _array(archive, manifest, name)
            for name in (*manifest.golden.inputs.values(), *manifest.golden.outputs.values())
        }
    return EdgeModel(manifest, signer, session, samples)


def checked(archive: Archive, trusted: Path | None) -> tuple[Manifest, str]:
    """The manifest of a bundle of which everything was compared, and who signed it.

    Raises
    ------
    BundleError
        As `load`.
    """
    content = archive.small(MANIFEST)
    keys = trust.trusted(trusted or trust.default_folder())
    signer = trust.check(archive, content, keys if keys or trusted else None)
    manifest = Manifest.of(archive, content)
    for name, file in manifest.files.items():
        archive.check(name, file.sha256)
    return manifest, signer


class EdgeModel:
    """A model that answers on this device.

    Parameters
    ----------
    signer : str
        Who signed the bundle; empty when nobody did.
    samples : dict
        The golden samples, by their members' names.
    """

    def __init__(self, manifest: Manifest, signer: str, session: Any, samples: dict[str, Any]) -> None:
        self.manifest = manifest
        self.signature = manifest.metadata.signature
        self.signer = signer
        self._session = session
        self._read = Reader(manifest.metadata.preprocessing, self.signature)
        self._samples = samples

    @property
    def takes(self) -> tuple[Tensor, ...]:
        """What it is given: before preprocessing, where the model has some."""
        return self._read.takes.inputs

    @property
    def golden_inputs(self) -> Feeds:
        """Inputs as a device is given them."""
        return {name: self._samples[member] for name, member in self.manifest.golden.inputs.items()}

    def predict(self, data: Any) -> Feeds:
        """Answers by the names of outputs, labels applied.

        Parameters
        ----------
        data : array, mapping or DataFrame
            As `nbcloud.models.signature.Signature.feeds`; before preprocessing, where the model has some.

        Raises
        ------
        SchemaError
            Names the input that is missing, unknown, or not as it must be.
        ModelError
            When the model, or a step before it, fails on this input.
        """
        try:
            feeds = self._read(data)
        except NbcloudError:
            raise
        except Exception as error:  # what a step meets in values that nobody thought of
            raise ModelError(f"{self.manifest.title} can't answer this: {_first_line(error)}") from error
        answers = self._run(feeds)
        return postprocess.apply(self.manifest.postprocessing, self.signature, answers)

    def self_test(self) -> float:
        """Compare the answers to the golden samples; returns the seconds that they took.

        Raises
        ------
        BundleError
            Says where the answers differ.
        """
        started = time.perf_counter()
        try:
            answers = self._run(self._read(self.golden_inputs))
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            if isinstance(error, NbcloudError):
                raise
            told = f"has steps or golden samples of no use ({type(error).__name__}: {error})"
            raise BundleError(f"{self.manifest.title} {told}.", "Fetch it again.") from error
        seconds = time.perf_counter() - started
        for name, member in self.manifest.golden.outputs.items():
            tolerance = self.manifest.golden.tolerances.get(name, 0.0)
            wrong = golden.difference(answers[name], self._samples[member], tolerance)
            if wrong:
                raise BundleError(
                    f"{self.manifest.title} does not answer here as it should: output {name!r}, {wrong}.",
                    "Don't use it here; try another variant.",
                    output=name,
                )
        return seconds

    def warm_up(self, times: int = 3) -> list[float]:
        """Answer the golden samples; returns the seconds of each time."""
        feeds = self._read(self.golden_inputs)
        took = []
        for _ in range(times):
            started = time.perf_counter()
            self._run(feeds)
            took.append(time.perf_counter() - started)
        return took

    def _run(self, feeds: Feeds) -> Feeds:
        names = [each.name for each in self.signature.outputs]
        try:
            return dict(zip(names, self._session.run(names, feeds)))
        except Exception as error:
            raise ModelError(
                f"{self.manifest.title} can't answer this: {_first_line(error)}",
                "Compare shapes with: info BUNDLE",
            ) from error


def _check_runtime(manifest: Manifest) -> None:
    import onnxruntime

    have, need = onnxruntime.__version__, manifest.target.onnxruntime
    if _numbers(have) < _numbers(need):
        raise BundleError(
            f"{manifest.title} needs onnxruntime {need} or newer; here is {have}.",
            f'Type: pip install "onnxruntime>={need}"; or export it with a smaller opset.',
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _session(archive: Archive, manifest: Manifest, threads: int | None, arena: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    folder = Path(manifest.model).parent
    beside = [name for name in manifest.files if Path(name).parent == folder and name != manifest.model]
    try:
        if not beside:
            # Else onnxruntime would read weights that a model in memory names from the working directory.
            options.add_session_config_entry(_WEIGHTS, os.devnull)
            content = archive.read(manifest.model, manifest.files[manifest.model].sha256)
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return _session_of_files(archive, manifest, [manifest.model, *beside], options)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(
            f"onnxruntime {onnxruntime.__version__} can't load {manifest.title}: {_first_line(error)}",
            "Try another variant of the model.",
        ) from error


def _session_of_files(archive: Archive, manifest: Manifest, names: list[str], options: Any) -> Any:
    """Weights beside a model are read by their file names."""
    import onnxruntime

    folder = tempfile.mkdtemp(prefix="nbcloud-")
    try:
        for name in names:
            archive.extract(name, manifest.files[name].sha256, Path(folder, Path(name).name))
        path = str(Path(folder, Path(manifest.model).name))
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _array(archive: Archive, manifest: Manifest, name: str) -> Any:
    content = archive.read(name, manifest.files[name].sha256)
    try:
        return golden.from_member(name, content)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise archive.damaged(f"has {name}, which is no array ({error})") from None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".") + "."

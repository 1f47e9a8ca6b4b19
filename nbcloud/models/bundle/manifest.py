"""What a bundle says of itself: its model, its files with their checksums, what it needs.

Runs on devices: Python 3.9.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nbcloud.errors import BundleError, ModelError, UsageError
from nbcloud.models.bundle import postprocess
from nbcloud.models.bundle.archive import MANIFEST, SIGNATURE, Archive
from nbcloud.models.metadata import Metadata

FORMAT = 1
"""Version of the document and the file. Adding a key keeps it; raise it when the meaning of one changes."""


@dataclass(frozen=True)
class Golden:
    """Inputs, and the answers that a device must give to them.

    Parameters
    ----------
    inputs, outputs : dict
        For each name the member that holds it. Inputs are as they are before any preprocessing, outputs as
        they are before any postprocessing.
    tolerances : dict
        For each output of fractions the largest difference, relative to the largest magnitude in its column.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    tolerances: dict[str, float]


@dataclass(frozen=True)
class Requirements:
    """What a bundle is made for.

    Parameters
    ----------
    name : str
    onnxruntime : str
        The oldest that reads the model: ``"1.17"``.
    ir : int
        Version of the ONNX file format.
    opsets : dict
        Versions of the operator sets, by their domains; ONNX's own is ``ai.onnx``.
    """

    name: str
    onnxruntime: str
    ir: int
    opsets: dict[str, int]


@dataclass(frozen=True)
class File:
    """Size and SHA-256 of a member."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that a bundle says of itself.

    Parameters
    ----------
    variant : str
        ``fp32``, ``int8``, …
    model : str
        The member that is the ONNX file; its weights may stand beside it.
    metadata : Metadata
        What the model takes and gives, its preprocessing and its labels included.
    postprocessing : list of dict
        See `nbcloud.models.bundle.postprocess`.
    files : dict
        Every member but the manifest and the signature.
    """

    name: str
    version: str
    variant: str
    model: str
    metadata: Metadata
    golden: Golden
    target: Requirements
    files: dict[str, File]
    postprocessing: list[dict[str, Any]] = field(default_factory=list)
    licence: str = ""
    run: str = ""

    @property
    def title(self) -> str:
        """``"digits 3 (int8)"``."""
        return f"{self.name} {self.version} ({self.variant})"

    def to_bytes(self) -> bytes:
        """As it stands in the bundle."""
        plain = {key: asdict(value) for key, value in (("golden", self.golden), ("target", self.target))}
        document = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "variant": self.variant,
            "model": self.model,
            "metadata": json.loads(self.metadata.to_text()),
            "postprocessing": self.postprocessing,
            "licence": self.licence,
            "run": self.run,
            "files": {name: asdict(file) for name, file in self.files.items()},
            **plain,
        }
        return json.dumps(document, sort_keys=True, ensure_ascii=False, indent=1).encode()

    @classmethod
    def of(cls, archive: Archive, content: bytes) -> Manifest:
        """Read a manifest, and compare what it lists with what is there.

        Raises
        ------
        BundleError
            When it can't be read, is of a later format, or lists other files or sizes than there are.
        """
        try:
            document = json.loads(content)
            _check_format(archive, document["format"])
            manifest = cls._read(document)
            _check_meaning(manifest)
        except BundleError:
            raise
        except (ModelError, UsageError) as error:
            raise BundleError(
                f"{archive.path.name} has a manifest of no use: {error.message}", error.hint
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            told = f"has a manifest that can't be read ({type(error).__name__}: {error})"
            raise archive.damaged(told) from None
        _check_files(archive, manifest)
        return manifest

    @classmethod
    def _read(cls, document: Mapping[str, Any]) -> Manifest:
        golden, target = document["golden"], document["target"]
        return cls(
            **{
                key: _text(document[key]) for key in ("name", "version", "variant", "model", "licence", "run")
            },
            metadata=Metadata.from_text(json.dumps(document["metadata"])),
            golden=Golden(
                _texts(golden["inputs"]),
                _texts(golden["outputs"]),
                {str(name): float(value) for name, value in golden["tolerances"].items()},
            ),
            target=Requirements(
                _text(target["name"]),
                _text(target["onnxruntime"]),
                int(target["ir"]),
                {str(domain): int(version) for domain, version in target["opsets"].items()},
            ),
            files={
                name: File(int(each["size"]), _text(each["sha256"]))
                for name, each in document["files"].items()
            },
            postprocessing=[dict(each) for each in document["postprocessing"]],
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(document: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): _text(value) for name, value in document.items()}


def _check_format(archive: Archive, found: Any) -> None:
    if not isinstance(found, int) or found < 1:
        raise archive.damaged(f"has a manifest of the format {found!r}, which never was")
    if found > FORMAT:
        raise BundleError(
            f"{archive.path.name} is of format {found}; this runtime knows {FORMAT}.",
            "Run it with a newer runtime of nbcloud, such as its own: python BUNDLE",
            path=str(archive.path),
        )


def _check_meaning(manifest: Manifest) -> None:
    """Refuse values that nothing after this expects."""
    signature, golden = manifest.metadata.signature, manifest.golden
    for tensor in (*signature.inputs, *signature.outputs):
        if not isinstance(tensor.shape, tuple):
            raise TypeError(f"the shape {tensor.shape!r} is none")
        texts = [tensor.name, tensor.dtype, *(size for size in tensor.shape if not _is_size(size))]
        for value in texts:
            _text(value)
        if tensor.dtype not in ("str", "bfloat16") and np.dtype(tensor.dtype).name != tensor.dtype:
            raise TypeError(f"{tensor.dtype!r} is no type")
        for values in (tensor.columns, tensor.labels):
            if not isinstance(values, tuple) or not all(
                isinstance(each, (str, int, float)) for each in values
            ):
                raise TypeError(f"{values!r} are no names")
    outputs = [tensor.name for tensor in signature.outputs]
    if not signature.inputs or sorted(golden.outputs) != sorted(outputs):
        raise ValueError(f"it has golden answers of {list(golden.outputs)}, and gives {outputs}")
    if not all(math.isfinite(value) and value >= 0 for value in golden.tolerances.values()):
        raise ValueError(f"the tolerances {golden.tolerances} are none")
    if not isinstance(manifest.metadata.preprocessing, list):
        raise TypeError(f"the preprocessing {manifest.metadata.preprocessing!r} is none")
    postprocess.check(manifest.postprocessing, outputs)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_files(archive: Archive, manifest: Manifest) -> None:
    sizes = {name: size for name, size in archive.sizes.items() if name not in (MANIFEST, SIGNATURE)}
    for name in sizes:
        if name not in manifest.files:
            raise archive.damaged(f"has {name}, which its manifest does not list")
    for name, file in manifest.files.items():
        if name not in sizes:
            raise archive.damaged(f"lacks {name!r}, which its manifest lists")
        if sizes[name] != file.size:
            raise archive.damaged(
                f"has {name} with {sizes[name]:,} bytes, and its manifest says {file.size:,}"
            )
    golden = manifest.golden
    for name in (manifest.model, *golden.inputs.values(), *golden.outputs.values()):
        if name not in sizes:
            raise archive.damaged(f"lacks {name!r}, which its manifest names")

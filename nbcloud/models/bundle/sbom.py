"""What made a bundle's model, and what it needs, as CycloneDX 1.5."""

from __future__ import annotations

import json
import uuid
from typing import Any

from nbcloud import __version__
from nbcloud.models.bundle.manifest import Requirements
from nbcloud.models.metadata import Metadata

_PACKAGES = {"sklearn": "scikit-learn", "tensorflow_cpu": "tensorflow-cpu"}


def sbom(
    metadata: Metadata, target: Requirements, *, name: str, version: str, licence: str, sha256: str
) -> bytes:
    """The document; without times, so that the same model gives the same bytes.

    Parameters
    ----------
    sha256 : str
        Of the model's file.
    """
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }
    if licence:
        model["licenses"] = [{"license": {"name": licence}}]
    needed = [
        {**_library("nbcloud", __version__, "required"), "licenses": [{"license": {"id": "Apache-2.0"}}]},
        _library("numpy", "", "required"),
        {**_library("onnxruntime", "", "required"), "description": f"{target.onnxruntime} or newer"},
    ]
    made = [_library(package, found, "excluded") for package, found in sorted(metadata.versions.items())]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{name} {version} {sha256}')}",
        "version": 1,
        "metadata": {"component": model},
        "components": needed + [each for each in made if each["bom-ref"] not in _references(needed)],
        "dependencies": [{"ref": "model", "dependsOn": sorted(_references(needed))}],
    }
    return json.dumps(document, sort_keys=True, ensure_ascii=False, indent=1).encode()


def _library(package: str, version: str, scope: str) -> dict[str, Any]:
    """Scope ``required`` is needed on the device, ``excluded`` only made the model."""
    name = _PACKAGES.get(package, package)
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}"
    library = {"type": "library", "name": name, "scope": scope}
    if version:
        library["version"] = version
        purl += f"@{version.replace('+', '%2B')}"
    return {**library, "bom-ref": purl, "purl": purl}


def _references(components: list[dict[str, Any]]) -> set[str]:
    return {each["bom-ref"] for each in components}

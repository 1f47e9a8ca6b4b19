"""Whose signatures are accepted: public keys in a folder. Runs on devices: Python 3.9."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from nbcloud.errors import BundleError, UsageError
from nbcloud.models.bundle import ed25519
from nbcloud.models.bundle.archive import SIGNATURE, Archive

_ALGORITHM = "ed25519"
_ENDING = ".pub.pem"
_LONGEST = 1024
_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What stands before an Ed25519 key in its PEM file (RFC 8410)."""


def default_folder() -> Path:
    """The user's own folder of trusted keys."""
    return Path.home() / ".config" / "nbcloud" / "trusted"


def fingerprint(public: bytes) -> str:
    """A key's short name."""
    return hashlib.sha256(public).hexdigest()[:16]


def trusted(folder: Path) -> dict[bytes, str]:
    """The keys (``*.pub.pem``) in a folder, with their files' names; none where there is no folder.

    Raises
    ------
    UsageError
        When a file there is no public Ed25519 key.
    """
    if not folder.is_dir():
        return {}
    return {read_public(file): file.name[: -len(_ENDING)] for file in sorted(folder.glob(f"*{_ENDING}"))}


def read_public(path: Path) -> bytes:
    """The 32 bytes of a public key in a PEM file."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").split()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.", "Look at its rights.") from None
    try:
        if lines[:2] != ["-----BEGIN", "PUBLIC"]:
            raise ValueError
        content = base64.b64decode("".join(lines[3:-3]), validate=True)
        if not content.startswith(_PREFIX) or len(content) != len(_PREFIX) + 32:
            raise ValueError
    except (ValueError, binascii.Error):
        raise UsageError(
            f"{path} is no public Ed25519 key in PEM.", "nbcloud edge keygen makes one: the file *.pub.pem"
        ) from None
    return content[len(_PREFIX) :]


@dataclass(frozen=True)
class Signed:
    """A signature as it stands in a bundle."""

    public: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """The one form in which it is written."""
        document = {"algorithm": _ALGORITHM, "key": self.public.hex(), "signature": self.signature.hex()}
        return json.dumps(document, sort_keys=True).encode()


def check(archive: Archive, manifest: bytes, keys: dict[bytes, str] | None) -> str:
    """Check the signature of the manifest's bytes.

    Parameters
    ----------
    keys : dict or None
        None: whoever signed, or nobody. Else one of these must have.

    Returns
    -------
    str
        Who signed it: the name of a trusted key, or the fingerprint of another; empty when nobody did.

    Raises
    ------
    BundleError
        When it isn't signed, not by a trusted key, or not for this manifest.
    """
    name = archive.path.name
    if SIGNATURE not in archive.sizes:
        if keys is None:
            return ""
        raise BundleError(f"{name} is not signed, and must be.", "Bundle it with sign=KEY, as a file of PEM.")
    signed = _read(archive)
    short = fingerprint(signed.public)
    if keys is not None and signed.public not in keys:
        known = ", ".join(f"{who} ({fingerprint(key)})" for key, who in keys.items()) or "nobody"
        raise BundleError(
            f"{name} is signed by {short}, whom this device does not trust; it trusts {known}.",
            "Sign it with such a key, or put its *.pub.pem into the folder of trusted keys.",
            key=short,
        )
    if not _verifies(signed, manifest):
        raise BundleError(
            f"{name} has a signature that is not of its manifest.", "Don't use it; fetch it again."
        )
    return keys[signed.public] if keys else short


def _read(archive: Archive) -> Signed:
    content = archive.small(SIGNATURE, _LONGEST)
    try:
        document = json.loads(content)
        if document["algorithm"] != _ALGORITHM:
            raise BundleError(
                f"{archive.path.name} is signed in a way that this runtime does not know.",
                "Run it with a newer runtime of nbcloud.",
            )
        signed = Signed(bytes.fromhex(document["key"]), bytes.fromhex(document["signature"]))
    except (ValueError, KeyError, TypeError):
        raise archive.damaged("has a signature that can't be read") from None
    if signed.to_bytes() != content:
        raise archive.damaged("has a signature that is not written as it must be")
    return signed


def _verifies(signed: Signed, message: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return ed25519.verifies(signed.public, signed.signature, message)
    try:
        Ed25519PublicKey.from_public_bytes(signed.public).verify(signed.signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True

"""Ed25519 keys on the building side: made, read, and used to sign."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.models.bundle.trust import Signed, fingerprint


def generate(path: Path) -> tuple[Path, str]:
    """Make a private key for this user only, and ``<stem>.pub.pem`` beside it for devices.

    Returns
    -------
    path, str
        The public key's file, and its fingerprint.

    Raises
    ------
    UsageError
        When one of the files is there already.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    public = path.with_name(f"{path.stem}.pub.pem")
    for file in (path, public):
        if file.exists():
            raise UsageError(f"{file} is there already.", "Give another name, or remove it first.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", f"Type: mkdir -p {path.parent}")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as opened:
        opened.write(private)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public, fingerprint(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def sign(path: Path, message: bytes) -> Signed:
    """Sign with the private key in a PEM file.

    Raises
    ------
    UsageError
        When it holds no such key, or others may read it.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = _read(path)
    return Signed(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), key.sign(message))


def _read(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The key {path} can't be read: {error.strerror}.", f"To make one: nbcloud edge keygen {path}"
        ) from None
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"{path} is no private Ed25519 key in PEM without a password.",
            "nbcloud edge keygen makes one.",
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise UsageError(f"Others can read the private key {path}.", f"Type: chmod 600 {path}")
    return key

"""Certificates of a cluster: one that signs itself, which every side shows, and all that they trust."""

from __future__ import annotations

from pathlib import Path

from nbcloud.clusters import registry
from nbcloud.clusters.base import TLSFiles

Texts = tuple[str, str, str]
"""PEM texts: who may sign, the certificate, its key."""


def make() -> Texts:
    """Make new ones."""
    from distributed.security import Security

    made = Security.temporary()
    return made.tls_ca_file, made.tls_scheduler_cert, made.tls_scheduler_key


def write(texts: Texts, directory: Path) -> TLSFiles:
    """Keep them in files that only this user may read."""
    files = TLSFiles(*(str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem")))
    for path, text in zip(vars(files).values(), texts, strict=True):
        registry.write_private(Path(path), text)
    return files

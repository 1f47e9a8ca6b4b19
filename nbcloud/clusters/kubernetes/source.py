"""nbcloud's own code as one archive, so that images need not contain it and both sides are of one version."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import nbcloud

ARCHIVE = "nbcloud.zip"
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same bytes for the same code


@cache
def archive() -> bytes:
    """The package, compressed; Python imports from it as it is."""
    package = Path(nbcloud.__file__).parent
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archived:
        for path in sorted(package.rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(package.parent).as_posix(), _WHEN)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archived.writestr(entry, path.read_bytes())
    return held.getvalue()

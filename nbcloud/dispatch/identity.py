"""Which notebook a run belongs to."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Which notebook this is: the same after a restart of its kernel."""

    path: str
    session: str
    lasting: bool
    """Whether the notebook is likely to come back after its kernel ended."""


def named_after(path: str, digits: int) -> str:
    """The name of a notebook's session; ``digits`` bytes of a hash tell notebooks of one name apart."""
    digest = hashlib.blake2b(str(Path(path)).encode(), digest_size=digits).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("-.")[:40] or "notebook"
    return f"{stem}-{digest}"


def identify(namespace: MutableMapping[str, Any]) -> Identity:
    """Find out which notebook the kernel of this process belongs to."""
    path = os.environ.get("JPY_SESSION_NAME") or str(namespace.get("__vsc_ipynb_file__") or "")
    if path:
        return Identity(path, named_after(path, 2), lasting=True)
    app = sys.modules.get("ipykernel.kernelapp")
    kernel = app.IPKernelApp.instance() if app is not None and app.IPKernelApp.initialized() else None
    if kernel is not None:
        name = Path(kernel.abs_connection_file).stem.removeprefix("kernel-")
        return Identity("", f"kernel-{name[:8]}", lasting=False)
    return Identity("", f"ipython-{os.getpid()}", lasting=False)

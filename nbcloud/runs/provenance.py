"""What it takes to run something again, beside the record itself: once for each content, among the artifacts.

``Run.provenance`` has the hashes, by these names.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from nbcloud.errors import UsageError
from nbcloud.runs.records import Records

SOURCE = "source"
"""The notebook that was run, without outputs, and without the cell that papermill had injected."""
PACKAGES = "packages"
"""Python and all packages where it ran, a line each, as pip reads them."""
CLUSTER = "cluster"
"""The kind, size and settings of its cluster, as JSON."""
DIFF = "git_diff"
"""How tracked files differed from the commit."""

_MOST = 2**20
_SECONDS = 5.0


def keep(store: Records, name: str, text: str) -> dict[str, str]:
    """Keep a text, its secrets masked; returns what `Run.provenance` is to have of it."""
    data = store.redactor.text(text).encode(errors="replace")
    digest = hashlib.sha256(data).hexdigest()
    if not store.artifacts.complete(digest):
        store.artifacts.keep(data)
    return {name: digest}


def kept(store: Records, run_id: str, name: str) -> str:
    """A text that was kept with a run; empty when there is none."""
    digest = store.get(run_id).provenance.get(name)
    if digest is None:
        return ""
    try:
        return store.artifacts.path(digest).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"What run {run_id} kept as its {name} can't be read: {error.strerror}.") from None


def git_diff(cwd: str | Path) -> str:
    """How tracked files differ from the commit, in the git work tree that holds ``cwd``; a MiB at most.

    Never raises, and takes 5 s at most.
    """
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "diff", "HEAD", "--no-color"]
    command += ["--no-ext-diff", "--no-textconv"]  # programs that a repository names
    env = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": _SECONDS, "check": True}
    try:
        said = subprocess.run(command, cwd=cwd, env=env, **options).stdout  # type: ignore[call-overload]
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    text: str = said[:_MOST].decode(errors="replace")
    return text + "\n… the rest is left out\n" if len(said) > _MOST else text

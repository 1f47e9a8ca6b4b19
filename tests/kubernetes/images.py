"""Images: environments of Python, by the names that pods use for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

DEFAULT_IMAGE = "nbcloud-test"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def bare_image(directory: Path) -> Path:
    """An environment with all packages of this one, but without what is installed as editable, such as nbcloud."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60)
    packages, here = next(directory.glob("lib/python*/site-packages")), Path(sysconfig.get_path("purelib"))
    editable = {
        file.parts[0]
        for each in metadata.distributions(path=[str(here)])
        if '"editable": true' in (each.read_text("direct_url.json") or "")
        for file in each.files or ()
    }
    for entry in here.iterdir():
        if entry.name not in editable and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    return directory


def bin_directory(prefix: Path) -> Path:
    return prefix / "bin" if (prefix / "bin").is_dir() else prefix


class CannotStart(Exception):
    """What the container runtime says about a command that it cannot run."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
            f"unable to start container process: error during container init: {why}"
        )


def resolve(prefix: Path, command: list[str]) -> list[str]:
    """The command with its program found in the image, or in the system, or as a module of the image's Python."""
    if not command:
        raise CannotStart("no command specified")
    name, binaries = command[0], bin_directory(prefix)
    if "/" in name:
        if not os.access(name, os.X_OK):
            raise CannotStart(f'exec: "{name}": stat {name}: no such file or directory')
        return command
    if found := shutil.which(name, path=str(binaries)):
        return [found, *command[1:]]
    if _has_module(prefix, name):
        return [str(binaries / "python"), "-m", *command]
    if found := shutil.which(name, path=SYSTEM_PATH):
        return [found, *command[1:]]
    raise CannotStart(f'exec: "{name}": executable file not found in $PATH')


def _has_module(prefix: Path, name: str) -> bool:
    """Whether ``python -m name`` can work there: an environment without pip has no scripts."""
    return any(prefix.glob(f"lib/python*/site-packages/{name}/__main__.py"))

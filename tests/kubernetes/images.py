"""Images: environments of Python, by the names that pods use for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

DEFAULT_IMAGE = "nbcloud-test"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def bare_image(directory: Path) -> Path:
    """An environment with all packages of this one, but without what is installed as editable, such as nbcloud.

    Its only ``.pth`` file names this environment's packages; ``.pth`` files there are not read.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60)
    packages = next(directory.glob("lib/python*/site-packages"))
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
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
    for packages in prefix.glob("lib/python*/site-packages"):
        places = [packages]
        for pth in packages.glob("*.pth"):
            places += [Path(line) for line in pth.read_text().splitlines() if line.startswith("/")]
        if any((place / name / "__main__.py").is_file() for place in places):
            return True
    return False

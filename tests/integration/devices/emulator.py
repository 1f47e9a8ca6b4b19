"""A device of another architecture on this machine: Debian's arm64 files, run by QEMU program by program.

Nothing is installed and no right is needed: packages are downloaded with apt's own checks into a folder of the
cache, taken apart there, and a second run finds them there. What the device has is what a bundle asks for: Python,
numpy and onnxruntime's wheel for aarch64.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import platformdirs

SUITE, PYTHON = "trixie", "3.13"
"""Of the device. In Debian's release before this one, QEMU ends in a fault when onnxruntime is imported."""
PACKAGES = ("qemu-user:amd64", "python3:arm64", "libstdc++6:arm64")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
WHEELS = ("numpy", "onnxruntime")
LIMIT = 600

CONFIGURATION = """
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architectures {{ "amd64"; "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
"""

# Python is told the name of this file as its own, so that programs that it starts run on the device, too.
STARTER = """#!/bin/sh
exec "{root}/qemu" -cpu {cpu} -L "{root}" -0 "$0" -E PYTHONHOME="{root}/usr" "{root}/usr/bin/python{python}" "$@"
"""


class NotHere(Exception):
    """Why there can be no device on this machine."""


@dataclass(frozen=True)
class Device:
    """A processor with Python.

    Parameters
    ----------
    cpu : str
        As QEMU names it.
    python : Path
        A program of this machine that is Python on the device.
    """

    cpu: str
    python: Path

    def run(
        self, *words: str | Path, folder: Path, text: str | None = None, path: Path | str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Python in a folder of this machine, with nothing of this machine's Python but ``path``."""
        return subprocess.run(
            [self.python, *words],
            input=text,
            cwd=folder,
            env={"HOME": str(folder), "LANG": "C.UTF-8", "PYTHONPATH": str(path)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )


def device(cpu: str) -> Device:
    """A device with this processor.

    Raises
    ------
    NotHere
        When what it is made of can't be had.
    """
    root = _root()
    python = root / f"python-{cpu}"
    if not python.exists():
        made = python.with_name(f"{python.name}.{os.getpid()}")
        made.write_text(STARTER.format(root=root, cpu=cpu, python=PYTHON))
        made.chmod(0o755)
        made.replace(python)
    return Device(cpu, python)


def _root() -> Path:
    """The folder with the device's files, made where it isn't there yet."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotHere(f"QEMU is taken from Debian's packages for amd64; this is {platform.machine()}.")
    pinned = [f"{name}-{metadata.version(name)}" for name in WHEELS]
    root = Path(platformdirs.user_cache_dir("nbcloud-tests")) / "-".join([SUITE, "arm64", *pinned])
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        made = Path(folder, "root")
        _unpack(_packages(Path(folder)), made)
        _install_wheels(Path(folder, "wheels"), made)
        try:
            made.rename(root)
        except OSError:
            if not root.is_dir():  # otherwise another run of the tests was quicker
                raise
    return root


def _packages(folder: Path) -> list[Path]:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise NotHere(f"There is no {program} to get Debian's packages with.")
    if not KEYRING.is_file():
        raise NotHere(f"There is no {KEYRING} to check Debian's packages with.")
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    (folder / "apt.conf").write_text(CONFIGURATION.format(folder=folder))
    environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    _get("Debian's packages", ["apt-get", "-qq", "--error-on=any", "update"], environment)
    command = ["apt-get", "-qq", "-y", "install", "--download-only", *PACKAGES]
    _get("Debian's packages", command, environment)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def _mirror() -> str:
    """Where this machine gets its own packages from."""
    form = "$(LABEL) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split()[-1] for line in run.stdout.splitlines() if line.startswith("Debian main ")]
    if not found:
        raise NotHere("This machine does not get its packages from Debian.")
    return found[0]


def _unpack(packages: Sequence[Path], root: Path) -> None:
    root.mkdir()
    for folder in ("bin", "lib", "sbin"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    for package in packages:
        if package.name.endswith(("_arm64.deb", "_all.deb")):
            subprocess.run(["dpkg-deb", "--extract", package, root], check=True, timeout=LIMIT)
        elif package.name.startswith("qemu-user_"):
            taken = root.with_name("emulator")
            subprocess.run(["dpkg-deb", "--extract", package, taken], check=True, timeout=LIMIT)
            shutil.copy(taken / "usr" / "bin" / "qemu-aarch64", root / "qemu")
    if not (root / "qemu").stat().st_mode & stat.S_IXUSR:
        raise NotHere("Debian's package of QEMU has no emulator of aarch64.")


def _install_wheels(folder: Path, root: Path) -> None:
    """The versions that are here, for the device."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON}", f"--dest={folder}"]
    command += [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)]
    command += [f"{name}=={metadata.version(name)}" for name in WHEELS]
    _get("wheels for aarch64", command, dict(os.environ))
    for wheel in folder.glob("*.whl"):
        shutil.unpack_archive(wheel, root / "usr" / "lib" / "python3" / "dist-packages", "zip")


def _get(what: str, command: list[str], environment: dict[str, str]) -> None:
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHere(f"{what} can't be had: {error}") from None
    if run.returncode:
        said = (run.stderr.strip().splitlines() or ["no reason was told"])[-1]
        raise NotHere(f"{what} can't be had: {said}")

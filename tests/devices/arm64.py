"""An aarch64 device, emulated: Debian's own programs for it, run by qemu, with numpy and onnxruntime alone.

Made once in a folder that later runs find again: the root of a Debian by debootstrap, of which nothing was run while
it was made; Python of the same Debian; the two wheels from PyPI.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

VERSION = "1"
"""Raised when what is made changes."""
_SUITE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = "python3,libstdc++6"
_WHEELS = ("numpy", "onnxruntime")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_CPU = "cortex-a72"
_PROCESSORS = "".join(
    f"processor\t: {number}\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for number in range(2)
)
"""Of a Raspberry Pi 4: that of this machine, where onnxruntime finds no Arm processor, makes it crash."""


class Unavailable(Exception):
    """The device can't be made here; says why."""


class Device:
    """Runs Python as on an aarch64 machine, on files of this one.

    Parameters
    ----------
    folder : Path
        In which it was made.
    """

    def __init__(self, folder: Path) -> None:
        self.python = folder / "python3"

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Begin ``python3 …`` in a process group of its own."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.python.parent), **environment}
        site = str(self.python.parent / "site")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), site)))
        return subprocess.Popen(
            [str(self.python), *words],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``python3 …`` to its end."""
        begun = self.start(*words, **environment)
        out, error = begun.communicate(timeout=120)
        return subprocess.CompletedProcess(words, begun.returncode, out, error)


def device(cache: Path) -> Device:
    """The device, made when it is not there.

    Raises
    ------
    Unavailable
        Where Debian's packages or the wheels can't be had, or nobody may make a root.
    """
    folder = cache / f"arm64-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with _only_one(cache / "lock"):
        if not folder.exists():
            _check()
            making = cache / f"making-{os.getpid()}"
            try:
                _make(making)
                making.rename(folder)
            finally:
                shutil.rmtree(making, ignore_errors=True)
        _write_python(folder)
    return Device(folder)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable("qemu's packages are fetched for Linux on x86_64 only")
    if os.geteuid() != 0:
        raise Unavailable("debootstrap needs root")
    for program in ("apt-get", "dpkg-deb", "gpgv"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program}")


def _make(folder: Path) -> None:
    root, tools = folder / "root", folder / "tools"
    tools.mkdir(parents=True)
    _fetch_tools(tools)
    script = tools / "usr/share/debootstrap"
    words = [
        "--arch=arm64",
        "--foreign",
        "--variant=minbase",
        f"--include={_PACKAGES}",
        _SUITE,
        str(root),
        _MIRROR,
    ]
    _do([str(tools / "usr/sbin/debootstrap"), *words], folder, DEBOOTSTRAP_DIR=str(script))
    # Its second stage would run the device's own programs, which need the kernel's help: only Python is unpacked.
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        if package.name.startswith(("python3", "libpython3", "libexpat", "libffi", "libssl", "libsqlite")):
            _unpack(package, root)
    (root / "proc").unlink(missing_ok=True)  # a link to this machine's
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cpuinfo").write_text(_PROCESSORS)
    _fetch_wheels(_version(root), folder)
    for unneeded in (root / "var", root / "usr/share/doc", root / "usr/share/locale"):
        shutil.rmtree(unneeded)


def _fetch_tools(tools: Path) -> None:
    _do(["apt-get", "update", "-qq"], tools)
    for package in ("debootstrap", "qemu-user-static"):
        _do(["apt-get", "download", "-qq", package], tools)
    for package in tools.glob("*.deb"):
        _unpack(package, tools)
        package.unlink()


def _unpack(package: Path, root: Path) -> None:
    """Files of a package, behind the links that the root has for folders."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as files:
        _do(["tar", "-x", "--keep-directory-symlink", "-C", str(root)], root, stdin=files)
    if files.returncode:
        raise Unavailable(f"{package.name} can't be unpacked")


def _fetch_wheels(version: str, folder: Path) -> None:
    chosen = [word for name in _PLATFORMS for word in ("--platform", name)]
    words = [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        version,
        *chosen,
        "-d",
        str(folder / "wheels"),
    ]
    _do([sys.executable, "-m", "pip", "download", "-qq", *words, *_WHEELS], folder)
    for wheel in (folder / "wheels").iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    shutil.rmtree(folder / "wheels")


def _version(root: Path) -> str:
    return next((root / "usr/bin").glob("python3.*")).name.removeprefix("python")


def _write_python(folder: Path) -> None:
    """A program that is the device's Python, also for the processes that it starts."""
    root = folder / "root"
    python = root / "usr/bin" / f"python{_version(root)}"
    qemu = folder / "tools/usr/bin/qemu-aarch64-static"
    text = f'#!/bin/sh\nexec "{qemu}" -cpu {_CPU} -L "{root}" -0 "$0" "{python}" "$@"\n'
    target = folder / "python3"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
        target.chmod(0o755)


def _do(
    command: list[str], folder: Path, *, stdin: subprocess.Popen[bytes] | None = None, **environment: str
) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=stdin.stdout if stdin is not None else subprocess.DEVNULL,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise Unavailable(f"{Path(command[0]).name} ended with {done.returncode}: {said}")

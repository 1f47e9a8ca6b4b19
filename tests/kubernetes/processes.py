"""Processes of the double on this machine: how they are started, found and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")


def launched() -> list[str]:
    """What comes before a command, so that the process ends with this one: with the thread that starts it."""
    return [sys.executable, "-I", "-S", "-P", str(LAUNCHER), str(os.getpid())]


async def start(
    command: list[str], environment: dict[str, str], log: Path, cwd: Path
) -> asyncio.subprocess.Process:
    """A process that ends with this one; what it prints goes to ``log``."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *launched(),
            *command,
            env=environment,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def below(directory: Path) -> list[int]:
    """The processes whose home is in a directory: a pod's, its children's, also those in sessions of their own."""
    marks = (f"HOME={directory}/".encode(), f"TMPDIR={directory}/".encode())
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                variables = (entry / "environ").read_bytes().split(b"\0")
                if any(each.startswith(marks) for each in variables):
                    found.append(int(entry.name))
    return found


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_below(directory: Path) -> None:
    """As the end of a process namespace: nobody is left."""
    while found := below(directory):
        for pid in found:
            send(pid, signal.SIGKILL)

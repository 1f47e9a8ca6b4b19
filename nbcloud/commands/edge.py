"""``nbcloud edge …``: keys and bundles are made here, and brought to devices by ssh."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.errors import BundleError, ModelError, UsageError
from nbcloud.wording import size_text

if TYPE_CHECKING:
    from nbcloud.models.bundle.manifest import Manifest

_FOLDER = "nbcloud"
_UNREACHABLE, _NO_PROGRAM = 255, 127


def edge(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Make keys and bundles, bring these to devices."""
    actions = {"keygen": _keygen, "bundle": _bundle, "push": _push, "status": _status}
    return actions[arguments.action](arguments, progress)


def _keygen(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    from nbcloud.models.bundle.keys import generate

    public, fingerprint = generate(arguments.key)
    text = (
        f"Private key: {arguments.key}; keep it. Public key {fingerprint}: {public}; it goes into the folder "
        "trusted of each device's store."
    )
    return Answer(
        text, data={"private": str(arguments.key), "public": str(public), "fingerprint": fingerprint}
    )


def _bundle(arguments: argparse.Namespace, progress: Progress) -> Answer:
    progress(f"bundling {arguments.model}")
    names = ("name", "version", "licence", "form", "target")
    facts: dict[str, Any] = {each: value for each in names if (value := getattr(arguments, each))}
    bundle = _bundle_registered if str(arguments.model).startswith("models:") else _bundle_file
    path, manifest = bundle(arguments, facts)
    signed = "signed" if arguments.sign else "not signed; to sign it: --sign KEY"
    text = f"{path} is {manifest.title}, {size_text(path.stat().st_size)}, {signed}."
    return Answer(text, data={"path": str(path), "model": manifest.title})


def _bundle_file(arguments: argparse.Namespace, facts: dict[str, Any]) -> tuple[Path, Manifest]:
    from nbcloud.models.bundle.build import bundle

    path = arguments.output or arguments.model.with_suffix(".nbundle")
    golden = _golden(arguments.golden)
    return path, bundle(arguments.model, path, golden=golden, sign=arguments.sign, **facts)


def _bundle_registered(arguments: argparse.Namespace, facts: dict[str, Any]) -> tuple[Path, Manifest]:
    """Bundle a version of the registry, or a variant of one."""
    from nbcloud.models.registry import Registry
    from nbcloud.models.registry.reference import Reference

    wanted = Reference.parse(str(arguments.model))
    version = Registry(arguments.registry).get(wanted)
    path = arguments.output or Path(f"{wanted.name}-{version.number}.nbundle")
    golden = _golden(arguments.golden)
    return path, version.bundle(path, golden, sign=arguments.sign, variant=wanted.variant, **facts)


def _golden(path: Path) -> Any:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        return dict(found) if path.suffix == ".npz" else found
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from None
    except ValueError:
        raise UsageError(f"{path} is neither .npy nor .npz.", "Write it with numpy.save(…).") from None


# --- devices ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A folder on a machine that ssh reaches.

    Parameters
    ----------
    host : str
        ``user@device``, or a name of ssh's configuration.
    folder : str
        Of its store; relative to the user's home.
    python : str
        The program that runs Python there.
    options : sequence of str
        As ``ssh -o`` takes them.
    """

    host: str
    folder: str = _FOLDER
    python: str = "python3"
    options: Sequence[str] = ()

    @classmethod
    def of(cls, text: str, arguments: argparse.Namespace) -> Device:
        """The device of ``user@device:folder``; the folder may be left out."""
        host, _, folder = text.partition(":")
        # What begins with a dash would be an option of ssh.
        if not re.fullmatch(r"[^\s-]\S*", host) or folder.startswith("-"):
            raise UsageError(f"{text!r} is no device.", "Write for example: pi@camera-1:nbcloud")
        folder = folder.removeprefix("~/")  # where ssh begins anyway
        return cls(host, folder or _FOLDER, arguments.python, tuple(arguments.option))

    def run(self, script: str, *, sent: IO[bytes] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script of sh; `inside` has it run in the folder.

        Raises
        ------
        ModelError
            When the device can't be reached, or has no Python.
        """
        options = [word for option in self.options for word in ("-o", option)]
        command = ["ssh", *options, "--", self.host, script]
        try:
            done = subprocess.run(
                command, stdin=sent or subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise UsageError("There is no program ssh here.", "Install OpenSSH's client.") from None
        said = (done.stderr.strip().splitlines() or [""])[-1].removeprefix("nbcloud: ")
        if done.returncode == _UNREACHABLE:
            raise ModelError(
                f"{self.host} can't be reached: {said.rstrip('.')}.",
                f"Look whether this works: {shlex.join(['ssh', *options, self.host])}",
            )
        if done.returncode == _NO_PROGRAM:
            raise ModelError(
                f"{self.host} has no program {self.python!r}.", "Name its Python: --python PROGRAM"
            )
        if done.returncode and not done.stdout:
            raise BundleError(f"{self.host} says: {said}", host=self.host)
        return done

    def inside(self, script: str, otherwise: str = "") -> str:
        """The script in the folder, which is made; where something else is ``otherwise`` done, it isn't."""
        folder = shlex.quote(self.folder)
        if otherwise:
            return f"cd {folder} 2> /dev/null || {otherwise}; {script}"
        return f"mkdir -p {folder} && cd {folder} && {{ {script}; }}"

    def edge(self, bundle: str, words: str) -> str:
        """A command of the runtime there: of the newest bundle that the device took in, or of this one."""
        newest = "$(ls -t versions/*.nbundle 2>/dev/null | head -n 1)"
        python = shlex.quote(self.python)
        program = f"{python} -m nbcloud.inference.edge {words}"
        return f'runtime={newest}; PYTHONPATH="${{runtime:-{bundle}}}" {program}'


def _push(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.inference.edge.model import checked
    from nbcloud.models.bundle.archive import Archive

    with Archive(arguments.bundle) as archive:
        manifest, signer = checked(archive, None)
    device = Device.of(arguments.device, arguments)
    there = f".push-{secrets.token_hex(4)}.nbundle"
    progress(f"sending {manifest.title} to {device.host}")
    with arguments.bundle.open("rb") as file:
        received = f"rm -f .push-*.nbundle; cat > {there} || {{ rm -f {there}; exit 1; }}"
        device.run(device.inside(received), sent=file)
    progress(f"activating it on {device.host}")
    add = device.edge(there, f"store add . {there} --activate")
    done = device.run(device.inside(f"{add}; code=$?; rm -f {there}; exit $code"))
    name = (done.stdout.strip().splitlines() or [""])[-1]
    signed = f"signed by {signer}" if signer else "not signed"
    text = f"{device.host} runs {name} ({manifest.title}, {signed}); it passed its self-test there."
    return Answer(text, data={"device": device.host, "folder": device.folder, "version": name})


def _status(arguments: argparse.Namespace, progress: Progress) -> Answer:
    device = Device.of(arguments.device, arguments)
    progress(f"asking {device.host}")
    none = "{ echo '{}'; exit 0; }"
    there = f"ls versions/*.nbundle > /dev/null 2>&1 || {none}; "
    done = device.run(device.inside(there + device.edge("", "store status . --json"), otherwise=none))
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        raise ModelError(f"{device.host} answers what can't be read: {done.stdout[:200]!r}.") from None
    if not facts:
        hint = f"Type: nbcloud edge push BUNDLE {arguments.device}"
        return Answer(f"{device.host} has no bundle in {device.folder}. {hint}", data={})
    rows = [[key.replace("_", " "), str(value)] for key, value in facts.items() if value not in ("", None)]
    return Answer("", ["what", "is"], rows, {"device": device.host, **facts}, failed=bool(done.returncode))

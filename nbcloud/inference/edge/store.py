"""The device's folder of bundles: one is active, the one before it is kept.

::

    store/versions/digits-3-1f2e3d4c5b6a.nbundle    never changed once it is there
    store/incoming/                                 what is being written; of no use to anybody else
    store/state.json                                which is active, and which was before
    store/trusted/*.pub.pem                         keys of whom this device trusts
    store/telemetry/                                see `nbcloud.inference.edge.telemetry`

A new bundle is active in the moment in which one rename replaces ``state.json``: whenever the device stops,
it has the old one or the new one, and both are whole.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbcloud import errors
from nbcloud.errors import BundleError, ModelNotFound, NbcloudError, StoreError
from nbcloud.inference.edge.files import copy_file, locked, replace_file, sync_folder
from nbcloud.inference.edge.model import EdgeModel, checked, load
from nbcloud.models.bundle.archive import SUFFIX, Archive

_PATIENCE = 300
"""Seconds that a self-test may take."""


@dataclass(frozen=True)
class State:
    """Names of versions; empty where there is none.

    Parameters
    ----------
    trouble : str
        Why the device went back by itself.
    """

    active: str = ""
    previous: str = ""
    trouble: str = ""


class Store:
    """Bundles in a folder.

    Parameters
    ----------
    folder : path
        Made when it isn't there. What an interrupted update left in it is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted: Path | None = folder / "trusted"
        self._versions, self._incoming = folder / "versions", folder / "incoming"
        with _told(folder):
            for each in (self._versions, self._incoming):
                each.mkdir(parents=True, exist_ok=True)
            if any(self._incoming.iterdir()):
                self._clean()
        if not (folder / "trusted").is_dir():
            self.trusted = None

    def state(self) -> State:
        """Which version is active."""
        path = self.folder / "state.json"
        if not path.exists():
            return State()
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return State(**{key: str(document[key]) for key in ("active", "previous", "trouble")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} can't be read ({error}).", "Remove it, then: store activate VERSION"
            ) from None

    def names(self) -> list[str]:
        """All versions that are there."""
        return sorted(path.name[: -len(SUFFIX)] for path in self._versions.glob(f"*{SUFFIX}"))

    def path(self, name: str) -> Path:
        """The file of a version; the beginning of its name will do.

        Raises
        ------
        ModelNotFound
            Lists those that there are.
        """
        names = self.names()
        found = [name] if name in names else [each for each in names if each.startswith(name)]
        if len(found) != 1 or not name:
            what = f"{len(found)} versions begin with {name!r}" if found else f"There is no version {name!r}"
            raise ModelNotFound(f"{what} in {self.folder}.", f"There are: {', '.join(names) or 'none'}.")
        return self._versions / f"{found[0]}{SUFFIX}"

    def add(self, bundle: Path) -> str:
        """Take in a bundle, checked; it is not active yet. Returns its name here.

        Raises
        ------
        BundleError
            Says what is wrong with it.
        """
        with self._changing():
            if not bundle.is_file():
                raise BundleError(f"There is no file {bundle}.", "Look whether it is there.")
            copy = self._incoming / f"{os.getpid()}{SUFFIX}"
            try:
                copy_file(bundle, copy)
                try:
                    with Archive(copy) as archive:
                        manifest, _ = checked(archive, self.trusted)
                        digest = archive.digest()
                except BundleError as error:  # it is known to people by the name that they gave
                    message = error.message.replace(copy.name, bundle.name, 1)
                    raise BundleError(message, error.hint, path=str(bundle)) from None
                plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{manifest.name}-{manifest.version}").strip(".-")
                name = f"{plain[:80]}-{digest[:12]}"
                copy.replace(self._versions / f"{name}{SUFFIX}")
                sync_folder(self._versions)
            finally:
                copy.unlink(missing_ok=True)
        return name

    def activate(self, name: str) -> str:
        """Make a version the active one when it passes its self-test; older ones than the last two go.

        Raises
        ------
        BundleError
            When it doesn't pass; the active one stays.
        """
        path = self.path(name)
        name = path.name[: -len(SUFFIX)]
        with self._changing():
            state = self.state()
            self._self_test(path, state)
            previous = state.previous if name == state.active else state.active
            self._write(State(name, previous))
            for other in self.names():
                if other not in (name, previous):
                    self.path(other).unlink()
        return name

    def rollback(self) -> str:
        """Make the version before the active one the active one again; returns its name."""
        state = self.state()
        if state.previous not in self.names():
            raise ModelNotFound(f"{self.folder} has no version before the active one.", "See: store ls")
        return self.activate(state.previous)

    def open(self, *, say: Callable[[str], None] = lambda _: None, **options: Any) -> EdgeModel:
        """The active model, self-tested; the one before it where that fails.

        Parameters
        ----------
        say : callable
            Is told when it is the one before.
        **options
            Of `nbcloud.inference.edge.model.load`.
        """
        state = self.state()
        if not state.active:
            raise ModelNotFound(f"No version in {self.folder} is active.", "Type: store activate VERSION")
        try:
            return self._ready(state.active, options)
        except NbcloudError as error:
            if state.previous not in self.names():
                raise
            model = self._ready(state.previous, options)
            trouble = f"{state.active}: {error.message}"
            say(f"{trouble} The version before it answers: {state.previous}.")
            if options.get("arena", True):  # else it may be only this process that has too little memory
                self._go_back(state, trouble)
            return model

    def _go_back(self, known: State, trouble: str) -> None:
        """Note that the one before is the active one now, where that can be noted: it answers in any case."""
        with suppress(StoreError), self._changing():
            if self.state() == known:  # else an update was sooner
                self._write(State(known.previous, "", trouble))

    def _ready(self, name: str, options: Any) -> EdgeModel:
        model = load(self.path(name), trusted=self.trusted, **options)
        model.self_test()
        return model

    def _self_test(self, path: Path, state: State) -> None:
        """In a process of its own: a model may crash onnxruntime, or take all memory."""
        home = str(Path(errors.__file__).parents[1])
        others = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, others] if others else [home])}
        command = [sys.executable, "-m", "nbcloud.inference.edge", "verify", str(path)]
        if self.trusted:
            command += ["--trusted", str(self.trusted)]
        stays = f"The active one stays: {state.active}." if state.active else "No version is active."
        try:
            run = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise BundleError(f"The self-test of {path.stem} took more than {_PATIENCE} s.", stays) from None
        if run.returncode < 0:
            raise BundleError(f"The self-test of {path.stem} was killed by signal {-run.returncode}.", stays)
        if run.returncode:
            said = (run.stderr.strip().splitlines() or ["no reason was told"])[-1]
            raise BundleError(f"{path.stem} did not pass its self-test: {said}", stays)

    def _write(self, state: State) -> None:
        content = json.dumps(asdict(state), indent=1).encode()
        replace_file(self.folder / "state.json", content, self._incoming / "state.json")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with _told(self.folder), locked(self.folder / "lock"):
            yield

    def _clean(self) -> None:
        try:
            with locked(self.folder / "lock"):
                for each in self._incoming.iterdir():
                    each.unlink()
        except (StoreError, OSError):
            return  # an update goes on, and these are its files; or nothing can be written, as is told then


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"The store {folder} can't be written: {error.strerror or error}.", "Look at its disk and rights."
        ) from error

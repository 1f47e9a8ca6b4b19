"""The registry: what people ask of it, and what they change."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nbcloud.config import private_dir, settings
from nbcloud.errors import ModelError, ModelNotFound, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import Metadata
from nbcloud.models.registry.log import Event, Log
from nbcloud.models.registry.reference import Reference, check_alias, check_name, is_name
from nbcloud.models.registry.state import File, State
from nbcloud.models.registry.storage import Storage
from nbcloud.models.registry.version import MODEL, Version

STAGES = ("none", "staging", "production", "archived")


class Registry:
    """Models and their versions.

    Parameters
    ----------
    root : str, optional
        A folder or an address that fsspec knows; ``settings().registry`` otherwise.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = root or settings().registry or str(settings().data_dir / "models")
        self._storage = Storage(self.root)
        self._logs: dict[str, Log] = {}

    # Reading

    def names(self) -> list[str]:
        """The names of all models that have a version, or of which that can't be told."""
        there = filter(is_name, self._storage.names("models"))
        return [name for name in there if self._may_have_versions(name)]

    def state(self, name: str) -> State:
        """All about one model.

        Raises
        ------
        ModelNotFound
            Names the nearest that there is.
        """
        state = self._state(name)
        if not state.alive:
            there = self.names()
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            known = f"There are: {', '.join(there)}." if there else "It has none yet."
            raise ModelNotFound(f"The registry has no model {name!r}.", hint + known)
        return state

    def history(self, name: str) -> list[Event]:
        """All that ever happened to a model, oldest first; also to one whose versions are all deleted."""
        events = self._log(name).events()
        if not events:
            self.state(name)
        return events

    def get(self, reference: str | Reference) -> Version:
        """The version that is meant.

        Raises
        ------
        ModelNotFound
            When there is no such model, version or alias.
        """
        wanted = Reference.parse(reference) if isinstance(reference, str) else reference
        state = self.state(wanted.name)
        number = wanted.version
        if wanted.alias:
            number = state.meant(wanted.alias)
        entry = state.alive[state.number(number)]
        version = Version(self, wanted.name, entry, tuple(state.aliases_of(entry.number)))
        version.files(wanted.variant)
        return version

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first."""
        state = self.state(name)
        return [
            Version(self, name, entry, tuple(state.aliases_of(number)))
            for number, entry in state.alive.items()
        ]

    def path(self, version: Version, variant: str = "") -> Path:
        """The ONNX file of a version or a variant; see `Version.path`."""
        files = version.files(variant)
        found = [(file.name, self._storage.fetch(file.sha256)) for file in files]
        if len(found) == 1:
            return found[0][1]
        # Of all of them: models of the same graph may differ in the weights that are apart.
        known = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
        folder = private_dir(settings().data_dir / "models-cache" / "together" / known)
        for name, blob in found:
            _copy(blob, folder / name)
        return folder / MODEL

    # Changing

    def add(self, path: Path, name: str, *, run: str = "", tags: Mapping[str, str] | None = None) -> Version:
        """Register an ONNX file with nbcloud's metadata as the next version of a model.

        Raises
        ------
        UsageError
            For a bad name, or a file that was not exported by nbcloud.
        """
        check_name(name, "a model")
        properties = {each.key: each.value for each in onnxfile.load(path, weights=False).metadata_props}
        if "nbcloud" not in properties:
            raise UsageError(
                f"{path} has no metadata of nbcloud's, so nothing is known of how right it is.",
                f"Export it: nbcloud export {path} SAMPLE --name {name}",
            )
        Metadata.from_text(properties["nbcloud"])
        files = self._keep(path)

        def next_version(events: list[Event]) -> Event:
            number = max(State.of(name, events).versions, default=0) + 1
            return {
                "kind": "version",
                "version": number,
                "files": files,
                "metadata": properties["nbcloud"],
                "run": run,
                "tags": dict(tags or {}),
            }

        made = self._log(name).append(next_version)
        return self.get(Reference(name, made["version"]))

    def set_alias(self, reference: str, alias: str) -> Version:
        """Have an alias mean this version from now on."""
        check_alias(alias)
        version = self.get(reference)
        return self._change(version, lambda _: {"kind": "alias", "alias": alias})

    def roll_back(self, name: str, alias: str) -> Version:
        """Have an alias mean what it meant before its last move.

        Raises
        ------
        UsageError
            When it meant nothing before, or what it meant is deleted.
        """
        check_name(alias, "an alias")

        def before(events: list[Event]) -> Event:
            state = State.of(name, events)
            state.meant(alias)
            past = state.aliases[alias][:-1]
            if not past or not past[-1]:
                raise UsageError(
                    f"{name}@{alias} has meant nothing before.", f"See: %cloud models show {name}"
                )
            if past[-1] not in state.alive:
                raise UsageError(
                    f"{name}@{alias} meant version {past[-1]} before, which is deleted.",
                    f"Choose another: %cloud models alias {name}/N {alias}",
                )
            return {"kind": "rollback", "alias": alias, "version": past[-1]}

        self.state(name)
        event = self._log(name).append(before)
        return self.get(Reference(name, event["version"]))

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias away; `roll_back` can't bring it back, `set_alias` can."""

        def away(events: list[Event]) -> Event:
            State.of(name, events).meant(alias)
            return {"kind": "alias", "alias": alias, "version": 0}

        self.state(name)
        self._log(name).append(away)

    def set_tag(self, reference: str, key: str, value: str | None) -> Version:
        """Set a tag of a version, or take it away with None."""
        return self._change(self.get(reference), lambda _: {"kind": "tag", "key": key, "value": value})

    def set_stage(self, reference: str, stage: str) -> Version:
        """Say how far a version is approved.

        Parameters
        ----------
        stage : str
            ``none``, ``staging``, ``production`` or ``archived``.
        """
        if stage not in STAGES:
            raise UsageError(f"{stage!r} is no stage.", f"There are: {', '.join(STAGES)}.")
        return self._change(self.get(reference), lambda _: {"kind": "stage", "stage": stage})

    def add_variant(self, reference: str, variant: str, path: Path, facts: Mapping[str, Any]) -> Version:
        """Add a compressed form of a version; its name must be new there.

        Parameters
        ----------
        facts : mapping
            Plain values: what it is for, and what was measured.
        """
        check_name(variant, "a variant")
        version = self.get(reference)
        files = self._keep(path)

        def added(state: State) -> Event:
            if variant in state.alive[version.number].variants:
                raise UsageError(
                    f"{version.uri} has a variant {variant!r} already.",
                    f"To replace it: %cloud models rm {version.name}/{version.number}#{variant}",
                )
            return {"kind": "variant", "variant": variant, "files": files, "facts": dict(facts)}

        return self._change(version, added)

    def add_bundle(self, reference: str, bundle: Mapping[str, Any]) -> Version:
        """Note that a bundle was made of a version: ``sha256``, ``variant``, ``file``, ``key``."""
        return self._change(self.get(reference), lambda _: {"kind": "bundle", "bundle": dict(bundle)})

    def forget_bundle(self, reference: str, file: str) -> Version:
        """Note that a bundle, named by its file, is nowhere any more.

        Raises
        ------
        ModelNotFound
            When no such bundle was made; names those that were.
        """
        version = self.get(reference)

        def gone(state: State) -> Event:
            bundles = state.alive[version.number].bundles
            found = [each["sha256"] for each in bundles if each["file"] == file]
            if not found:
                known = ", ".join(each["file"] for each in bundles)
                there = f"There are: {known}." if known else "There is none."
                raise ModelNotFound(f"No bundle {file!r} was made of {version.uri}.", there)
            return {"kind": "delete", "bundle": found[-1]}

        return self._change(version, gone)

    def delete(self, reference: str) -> int:
        """Delete a version, or a variant of one, to which nothing points.

        Returns
        -------
        int
            Bytes that are free now. Files go a day after the last version that has them.

        Raises
        ------
        UsageError
            Says what points at it.
        """
        wanted = Reference.parse(reference).exact()
        version = self.get(wanted)

        def gone(state: State) -> Event:
            entry = state.alive[version.number]
            users = state.users(entry, wanted.variant)
            for what, remedy in users[:1]:
                raise UsageError(f"{wanted} can't be deleted: {what} it.", f"First: %cloud models {remedy}")
            return {"kind": "delete", "variant": wanted.variant}

        self._change(version, gone)
        try:
            used = self._used()
        except ModelError:  # a model that can't be read may have any file
            return 0
        return self._storage.sweep(used)

    # Inside

    def _state(self, name: str) -> State:
        return State.of(name, self._log(name).events())

    def _may_have_versions(self, name: str) -> bool:
        try:
            return bool(self._state(name).alive)
        except ModelError:  # whoever asks for it is told
            return True

    def _log(self, name: str) -> Log:
        return self._logs.setdefault(name, Log(self._storage, check_name(name, "a model")))

    def _change(self, version: Version, decide: Callable[[State], Event]) -> Version:
        def event(events: list[Event]) -> Event:
            state = State.of(version.name, events)
            if version.number not in state.alive:
                raise ModelNotFound(f"{version.uri} has just been deleted.")
            return {"version": version.number, **decide(state)}

        self._log(version.name).append(event)
        entry = self._state(version.name).versions[version.number]
        return Version(self, version.name, entry, tuple(self._state(version.name).aliases_of(version.number)))

    def _keep(self, path: Path) -> list[dict[str, Any]]:
        """Keep an ONNX file and its weights; their names are the same in every version."""
        found = onnxfile.files(path)
        kept = []
        for file in found:
            name = MODEL if file == path else file.name
            digest, size = self._storage.keep(file)
            kept.append(asdict(File(name, digest, size)))
        return kept

    def _used(self) -> set[str]:
        """The contents that some version or variant has."""
        entries = [entry for name in self.names() for entry in self._state(name).alive.values()]
        files = [file for entry in entries for file in entry.files]
        files += [file for entry in entries for variant in entry.variants.values() for file in variant.files]
        return {file.sha256 for file in files}


def _copy(blob: Path, path: Path) -> None:
    """Have a file at a path: a copy, because onnx refuses weights that are links."""
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    shutil.copyfile(blob, name)
    Path(name).replace(path)

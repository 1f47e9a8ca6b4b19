"""The registry: models by name, each with versions, aliases, tags, stages, variants and bundles."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.config import private_dir, settings
from nbcloud.errors import ModelError, ModelNotFound, UsageError
from nbcloud.models import onnxfile
from nbcloud.models.metadata import Metadata
from nbcloud.models.registry.log import Event, Log
from nbcloud.models.registry.reference import SCHEME, Reference, check_alias, check_name, is_name
from nbcloud.models.registry.state import Entry, File, State, Variant
from nbcloud.models.registry.storage import Storage

if TYPE_CHECKING:
    from nbcloud.models.bundle.manifest import Manifest
    from nbcloud.models.optimize import Choice, Student

STAGES = ("none", "staging", "production", "archived")
MODEL = "model.onnx"


@dataclass(frozen=True)
class Version:
    """A version of a model in a registry, as it is now.

    Parameters
    ----------
    number : int
        1, 2, …
    aliases : tuple of str
        Those that mean it.
    """

    registry: Registry
    name: str
    entry: Entry
    aliases: tuple[str, ...]

    @property
    def number(self) -> int:
        """Which version it is."""
        return self.entry.number

    @property
    def uri(self) -> str:
        """``models:/digits/3``."""
        return f"{SCHEME}{self.name}/{self.number}"

    @cached_property
    def metadata(self) -> Metadata:
        """What its file says of itself."""
        return Metadata.from_text(self.entry.metadata)

    def path(self, variant: str = "") -> Path:
        """Its ONNX file, on this machine and checked; with its weights beside it where they are apart."""
        return self.registry.path(self, variant)

    def optimize(
        self,
        target: str,
        data: Any,
        expected: Any = None,
        *,
        metric: str | Callable[[Any, Any], float] | None = None,
        max_drop: float | None = None,
        max_size: int | str | None = None,
        max_latency: float | str | None = None,
        only: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        student: Student | None = None,
        keep: bool = True,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Choice:
        """Make smaller and faster forms for a target, run and measure each, and keep the best as a variant.

        Parameters
        ----------
        target : str
            ``cpu-x86``, ``edge-arm64``, ``edge-arm32``, ``jetson``, ``web``, ``cloud-gpu``; ``edge``.
        data : array, DataFrame, mapping
            Real data, as the model takes it: it calibrates 8-bit forms, and all are measured on it.
        expected : array, optional
            What would be right, for each row of the data.
        metric : str or callable, optional
            ``accuracy``, ``r2``, or a function of the answers by their names and what is expected; higher is
            better.
        max_drop : float, optional
            Of the metric below full precision; of the agreement with it where nothing is expected.
        max_size : int or str, optional
            Bytes, or ``"5MiB"``.
        max_latency : float or str, optional
            Seconds for one row, the median; or ``"2ms"``.
        only : sequence of str, optional
            Forms to try, rather than all that are worth it there.
        outputs : sequence of str, optional
            Those of the model that are needed; the forms have no others, nor what only those need.
        student : callable, optional
            ``student(inputs, answers)`` trains a smaller model on the data and on what the model answers to
            it, both arrays by their names, and returns it: a model that `nbcloud.export` takes, with the
            same inputs and outputs in the same order. It is one more form, ``student``.
        keep : bool
            Whether the best becomes a variant in the registry.

        Returns
        -------
        Choice
            The table; ``best`` and, when it was kept, ``variant``.

        Raises
        ------
        ModelError
            When no form is within the limits; says which comes nearest.
        """
        from nbcloud.models.optimize import Limits, optimize

        with tempfile.TemporaryDirectory(prefix="nbcloud-optimize-", ignore_cleanup_errors=True) as folder:
            choice = optimize(
                self.path(),
                self.metadata,
                Path(folder),
                target_name=target,
                data=data,
                right=expected,
                asked_metric=metric,
                limits=Limits.read(max_drop, max_size, max_latency),
                only=only,
                outputs=outputs,
                student=student,
                progress=progress,
            )
            if keep:
                best = choice.best
                variants = self.registry.get(self._reference).entry.variants
                name = _kept(variants, f"{choice.target.name}-{best.way}", best.path)
                facts = {
                    "target": choice.target.name,
                    "form": best.way,
                    **best.facts(),
                    "note": choice.note(),
                }
                if name not in variants:
                    self.registry.add_variant(self._reference, name, best.path, facts)
                choice.variant = f"{self.uri}#{name}"
                choice.bundler = partial(self.bundle, golden=data, variant=name)
        return choice

    def bundle(
        self,
        path: Path | str,
        golden: Any,
        *,
        sign: Path | str | None = None,
        variant: str = "",
        **facts: Any,
    ) -> Manifest:
        """Make the one file that is shipped to a device, and note it in the registry.

        Parameters
        ----------
        path : path
            ``digits.nbundle``.
        golden : array, DataFrame or mapping
            Some rows of real data: each device must answer them as it is answered here, before it uses the
            model.
        sign : path, optional
            A private key (``nbcloud edge keygen``).
        variant : str, optional
            One of its variants; full precision otherwise.
        **facts
            Further arguments of `nbcloud.models.bundle.build.bundle`.
        """
        from nbcloud.models.bundle.build import bundle

        target = Path(path)
        with tempfile.TemporaryDirectory(prefix="nbcloud-bundle-", ignore_cleanup_errors=True) as folder:
            now = self.registry.get(self._reference)  # variants may have been added since
            source, model = now.path(variant), Path(folder) / MODEL
            for file in onnxfile.files(source)[1:]:
                shutil.copyfile(file, Path(folder) / file.name)
            shutil.copyfile(source, model)
            known = {"name": self.name, "version": str(self.number), "variant": variant} | facts
            made = bundle(model, target, golden=golden, sign=None if sign is None else Path(sign), **known)
        noted = {
            "file": target.name,
            "sha256": onnxfile.digest(target),
            "variant": variant,
            "signed": sign is not None,
        }
        self.registry.add_bundle(self._reference, noted)
        return made

    @property
    def _reference(self) -> str:
        return f"{self.name}/{self.number}"

    def __repr__(self) -> str:
        names = "".join(f" @{alias}" for alias in self.aliases)
        metadata = self.metadata
        takes = ", ".join(map(str, metadata.takes))
        gives = ", ".join(map(str, metadata.signature.outputs))
        return f"<{self.uri}{names}: {metadata.framework}, takes {takes}, gives {gives}>"


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
        """All that ever happened to a model, oldest first."""
        self.state(name)
        return self._log(name).events()

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
            number = _alias(state, wanted.alias)
        entry = state.alive[_number(state, number)]
        if wanted.variant:
            _variant(wanted.name, entry, wanted.variant)
        return Version(self, wanted.name, entry, tuple(state.aliases_of(entry.number)))

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first."""
        state = self.state(name)
        return [
            Version(self, name, entry, tuple(state.aliases_of(number)))
            for number, entry in state.alive.items()
        ]

    def path(self, version: Version, variant: str = "") -> Path:
        """The ONNX file of a version or a variant; see `Version.path`."""
        files = _variant(version.name, version.entry, variant).files if variant else version.entry.files
        found = [(file.name, self._storage.fetch(file.sha256)) for file in files]
        if len(found) == 1:
            return found[0][1]
        folder = private_dir(settings().data_dir / "models-cache" / "together" / files[0].sha256)
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
            _alias(state, alias)
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
            _alias(State.of(name, events), alias)
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
        wanted = Reference.parse(reference)
        if wanted.version is None and not wanted.alias:
            raise UsageError(f"Which version of {wanted.name}?", f"Write for example: {wanted.name}/1")
        version = self.get(wanted)

        def gone(state: State) -> Event:
            entry = state.alive[version.number]
            users = _users(state, entry, wanted.variant)
            if users:
                raise UsageError(f"{wanted} can't be deleted: {users[0]} it.", "Remove that first.")
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


def _number(state: State, number: int | None) -> int:
    if number is None:
        return max(state.alive)
    if number not in state.alive:
        gone = " any more" if number in state.versions else ""
        raise ModelNotFound(
            f"The model {state.name!r} has no version {number}{gone}.",
            f"It has: {_listed(map(str, state.alive))}.",
        )
    return number


def _alias(state: State, alias: str) -> int:
    current = state.current
    if alias not in current:
        near = difflib.get_close_matches(alias, current, n=1)
        hint = f"Did you mean @{near[0]}? " if near else ""
        known = f"It has: {_listed('@' + each for each in current)}." if current else "It has no alias."
        raise ModelNotFound(f"The model {state.name!r} has no alias @{alias}.", hint + known)
    return current[alias]


def _variant(name: str, entry: Entry, variant: str) -> Variant:
    if variant not in entry.variants:
        known = f"It has: {_listed(entry.variants)}." if entry.variants else "It has none."
        raise ModelNotFound(f"{name}/{entry.number} has no variant {variant!r}.", known)
    return entry.variants[variant]


def _users(state: State, entry: Entry, variant: str) -> list[str]:
    """What points at a version, or at a variant of it, each with its verb."""
    bundles = [each for each in entry.bundles if not variant or each.get("variant") == variant]
    found = [f"the bundle {each['file']} was made of" for each in bundles]
    if not variant:
        found = [f"the alias @{alias} means" for alias in state.aliases_of(entry.number)] + found
        found += [f"the variant {each!r} was made of" for each in entry.variants]
    return found


def _kept(variants: Mapping[str, Variant], name: str, path: Path) -> str:
    """The name of the variant that has this content already; else one that is free."""
    digests = {onnxfile.digest(file) for file in onnxfile.files(path)}
    numbered = (f"{name}-{number}" for number in range(2, len(variants) + 3))
    return next(
        each
        for each in (name, *numbered)
        if each not in variants or {file.sha256 for file in variants[each].files} == digests
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _copy(blob: Path, path: Path) -> None:
    """Have a file at a path: a copy, because onnx refuses weights that are links."""
    if path.exists():
        return
    handle, name = tempfile.mkstemp(dir=path.parent)
    os.close(handle)
    shutil.copyfile(blob, name)
    Path(name).replace(path)

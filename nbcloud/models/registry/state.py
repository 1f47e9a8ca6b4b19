"""What is true of a model now: its events, one after the other."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from nbcloud.errors import ModelError, ModelNotFound
from nbcloud.models.registry.log import Event


@dataclass
class File:
    """One file of a version or a variant: its name beside the others, its content's SHA-256, its bytes."""

    name: str
    sha256: str
    size: int


@dataclass
class Variant:
    """A compressed or specialised form of a version."""

    name: str
    files: list[File]
    facts: dict[str, Any]
    """What was measured: size, latency, accuracy, agreement; and what it is for."""
    created: float


@dataclass
class Entry:
    """One version of a model."""

    number: int
    files: list[File]
    metadata: str
    """The text that stands in its file, too (`nbcloud.models.metadata`)."""
    created: float
    by: str
    run: str = ""
    stage: str = "none"
    tags: dict[str, str] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    bundles: list[dict[str, Any]] = field(default_factory=list)
    deleted: bool = False

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


@dataclass
class State:
    """A model: its versions, and the aliases with all that each has ever meant."""

    name: str
    versions: dict[int, Entry] = field(default_factory=dict)
    aliases: dict[str, list[int]] = field(default_factory=dict)
    """For each alias its versions, oldest first, the one it means now last; 0 where it was taken away."""

    @classmethod
    def of(cls, name: str, events: list[Event]) -> State:
        """The state after these events; kinds of a later nbcloud are left out."""
        state = cls(name)
        for event in events:
            happened = getattr(state, f"_on_{event.get('kind')}", None)
            try:
                if happened is not None:
                    happened(event)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                what = f"Event {event.get('number')} of the model {name!r} in the registry"
                raise ModelError(
                    f"{what} is not as it was written ({type(error).__name__}: {error})."
                ) from None
        return state

    @property
    def alive(self) -> dict[int, Entry]:
        """The versions that are not deleted."""
        return {number: entry for number, entry in self.versions.items() if not entry.deleted}

    @property
    def current(self) -> dict[str, int]:
        """What each alias means now."""
        return {alias: past[-1] for alias, past in sorted(self.aliases.items()) if past and past[-1]}

    def aliases_of(self, number: int) -> list[str]:
        """The aliases that mean a version now."""
        return [alias for alias, meant in self.current.items() if meant == number]

    def number(self, wanted: int | None) -> int:
        """The version of that number; the newest one for None.

        Raises
        ------
        ModelNotFound
            Lists those that there are.
        """
        if wanted is None:
            return max(self.alive)
        if wanted not in self.alive:
            gone = " any more" if wanted in self.versions else ""
            raise ModelNotFound(
                f"The model {self.name!r} has no version {wanted}{gone}.",
                f"It has: {', '.join(map(str, self.alive))}.",
            )
        return wanted

    def meant(self, alias: str) -> int:
        """The version that an alias means now.

        Raises
        ------
        ModelNotFound
            Names the nearest that there is.
        """
        current = self.current
        if alias not in current:
            near = difflib.get_close_matches(alias, current, n=1)
            hint = f"Did you mean @{near[0]}? " if near else ""
            known = f"It has: {', '.join(f'@{each}' for each in current)}." if current else "It has no alias."
            raise ModelNotFound(f"The model {self.name!r} has no alias @{alias}.", hint + known)
        return current[alias]

    def users(self, entry: Entry, variant: str) -> list[str]:
        """What points at a version, or at a variant of it, each with its verb."""
        bundles = [each for each in entry.bundles if not variant or each.get("variant") == variant]
        found = [f"the bundle {each['file']} was made of" for each in bundles]
        if not variant:
            found = [f"the alias @{alias} means" for alias in self.aliases_of(entry.number)] + found
            found += [f"the variant {each!r} was made of" for each in entry.variants]
        return found

    def _on_version(self, event: Event) -> None:
        self.versions[event["version"]] = Entry(
            number=event["version"],
            files=_files(event),
            metadata=event["metadata"],
            created=event["time"],
            by=event["by"],
            run=event.get("run", ""),
            tags=dict(event.get("tags", {})),
        )

    def _on_alias(self, event: Event) -> None:
        past = self.aliases.setdefault(event["alias"], [])
        if not past or past[-1] != event["version"]:  # what is set again has not moved
            past.append(event["version"])

    def _on_rollback(self, event: Event) -> None:
        past = self.aliases[event["alias"]]
        while past and past[-1] != event["version"]:
            past.pop()

    def _on_tag(self, event: Event) -> None:
        tags = self.versions[event["version"]].tags
        if event["value"] is None:
            tags.pop(event["key"], None)
        else:
            tags[event["key"]] = event["value"]

    def _on_stage(self, event: Event) -> None:
        self.versions[event["version"]].stage = event["stage"]

    def _on_variant(self, event: Event) -> None:
        variant = Variant(event["variant"], _files(event), event["facts"], event["time"])
        self.versions[event["version"]].variants[variant.name] = variant

    def _on_bundle(self, event: Event) -> None:
        self.versions[event["version"]].bundles.append(event["bundle"])

    def _on_delete(self, event: Event) -> None:
        entry = self.versions[event["version"]]
        if event.get("variant"):
            entry.variants.pop(event["variant"], None)
        elif event.get("bundle"):
            entry.bundles = [each for each in entry.bundles if each["sha256"] != event["bundle"]]
        else:
            entry.deleted = True


def _files(event: Event) -> list[File]:
    return [File(each["name"], each["sha256"], each["size"]) for each in event["files"]]

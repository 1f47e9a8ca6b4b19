"""``profiles``: what ``nbcloud.toml`` says of clusters, and what is wrong with it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.config import settings
from nbcloud.config.profiles import ExistingProfile, LocalProfile, Profile, WorkerGroup, read_all
from nbcloud.errors import ConfigError
from nbcloud.wording import counted, size_text


def list_profiles(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Profiles, the files that they are from, and every mistake in them."""
    found, wrong = read_all()
    rows = [[name, made.kind, _workers(made), origin] for name, (made, origin) in sorted(found.items())]
    wrong = [*_beside(), *wrong]
    sentences = [str(error) for error in wrong]
    if not found and not wrong:
        sentences = ["There is no profile: no nbcloud.toml here or above, nor in your configuration."]
    data = {name: {"file": origin, **asdict(made)} for name, (made, origin) in found.items()}
    columns = ["name", "kind", "workers", "file"]
    return Answer("\n".join(sentences), columns, rows, data, failed=bool(wrong))


def _beside() -> list[ConfigError]:
    """What is wrong beside the profiles, such as a ``[profile.gpu]``, which would be a setting."""
    try:
        settings()
    except ConfigError as error:
        return [error]
    return []


def _workers(made: Profile) -> str:
    """The workers of a profile, in a few words."""
    match made:
        case ExistingProfile():
            return made.address
        case LocalProfile():
            return f"{made.workers or 'as many as fit'}"
    return "; ".join(_group(key, group) for key, group in made.all_groups().items())


def _group(key: str, group: WorkerGroup) -> str:
    number = f"{group.minimum} to {group.most}" if group.is_adaptive else f"{group.minimum}"
    name = "" if key == "default" else f"{key}: "
    cpus = f"{group.cpus:g} CPU" if group.cpus == 1 else f"{group.cpus:g} CPUs"
    gpus = f", {counted(group.gpus, 'GPU')}" if group.gpus else ""
    return f"{name}{number} × {cpus}, {size_text(group.memory)}{gpus}"

"""What can't be right in a profile though each key has a value of its kind."""

from __future__ import annotations

import math
import re

from nbcloud.config.kinds import (
    ExistingProfile,
    KubernetesProfile,
    LocalProfile,
    Profile,
    Volume,
    WorkerGroup,
)
from nbcloud.config.quantities import parse_bytes
from nbcloud.errors import ConfigError

_LEAST_MEMORY = "64MiB"  # less is no worker, but a number whose unit was forgotten
_LEAST_VOLUME = "1MiB"
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_GROUP = re.compile(r"[a-z][a-z0-9-]{0,19}")  # part of the names of pods, which are short


def check(made: Profile, where: str) -> None:
    """Refuse what can't be.

    Parameters
    ----------
    made : Profile
    where : str
        Where it stands, for errors: ``nbcloud.toml: profiles.gpu``.

    Raises
    ------
    ConfigError
        Names the place, and what to write there.
    """
    match made:
        case LocalProfile():
            _at_least_one("workers", made.workers, where)
            _at_least_one("threads", made.threads, where)
            _memory(made.memory, where)
            _amount("price", made.price, where)
        case ExistingProfile():
            _amount("price", made.price, where)
        case KubernetesProfile():
            _kubernetes(made, where)


def _kubernetes(made: KubernetesProfile, where: str) -> None:
    if made.namespace and not _NAMESPACE.fullmatch(made.namespace):
        raise ConfigError(
            f"{where}.namespace can't be {made.namespace!r}.",
            "Kubernetes takes small letters, digits and '-', which is neither first nor last, up to 63.",
        )
    if "default" in made.groups:
        raise ConfigError(
            f"{where}.groups has 'default', which is what 'workers' describes.",
            "Write its keys under workers, or give the group another name.",
        )
    for name in made.groups:
        if not _GROUP.fullmatch(name):
            raise ConfigError(
                f"{where}.groups has {name!r}, which can't name a group.",
                "Use small letters, digits and '-', a letter first, up to 20 characters.",
            )
    _more_than_nothing("cpus", made.scheduler.cpus, f"{where}.scheduler")
    _memory(made.scheduler.memory, f"{where}.scheduler")
    _volumes(made.volumes, where)
    _secrets(made.secrets, where)
    for name, group in made.all_groups().items():
        is_first = name == "default"
        _group(group, f"{where}.workers" if is_first else f"{where}.groups.{name}", 1 if is_first else 0)


def _group(group: WorkerGroup, where: str, least: int) -> None:
    if group.minimum < 0:
        raise ConfigError(f"{where}: minimum can't be negative, and is {group.minimum}.", "Write 0 or more.")
    if group.most < max(group.minimum, least):
        raise ConfigError(
            f"{where} can't have from {group.minimum} to {group.most} workers.",
            f"Let maximum be at least {max(group.minimum, least)}.",
        )
    _more_than_nothing("cpus", group.cpus, where)
    _memory(group.memory, where)
    if group.gpus < 0:
        raise ConfigError(f"{where}: gpus can't be negative, and is {group.gpus}.", "Write 0 or more.")
    _at_least_one("threads", group.threads, where)
    _amount("price", group.price, where)
    _volumes(group.volumes, where)
    _secrets(group.secrets, where)


def _at_least_one(key: str, value: int | None, where: str) -> None:
    if value is not None and value < 1:
        raise ConfigError(
            f"{where}: {key} must be at least 1, and is {value}.", "Leave it out for as many as fit."
        )


def _more_than_nothing(key: str, value: float, where: str) -> None:
    if not 0 < value < math.inf:  # so that nan is refused, too
        raise ConfigError(
            f"{where}: {key} must be more than 0, and is {value:g}.", "Write for example 2 or 0.5."
        )


def _amount(key: str, value: float, where: str) -> None:
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"{where}: {key} can't be {value:g}.", "Write an amount such as 2.5, or leave it out."
        )


def _memory(value: int | None, where: str, least: str = _LEAST_MEMORY) -> None:
    if value is not None and value < parse_bytes(least):
        raise ConfigError(
            f"{where}: memory is {value:,} bytes, and must be at least {least}.",
            'Write it with its unit: "4GiB".',
        )


def _volumes(volumes: tuple[Volume, ...], where: str) -> None:
    for volume in volumes:
        for key, path in (("path", volume.path), ("host_path", volume.host_path)):
            if not path.startswith("/") and (path or key == "path"):
                raise ConfigError(
                    f"{where}: the {key} {path!r} of a volume is not absolute.", f"Write '/{path}', perhaps."
                )
        sources = (volume.claim, volume.secret, volume.config_map, volume.host_path, volume.memory)
        if sum(bool(source) for source in sources) != 1:
            raise ConfigError(
                f"{where}: the volume at {volume.path!r} must have exactly one source.",
                "Give claim, secret, config_map, host_path or memory.",
            )
        _memory(volume.memory, f"{where}: the volume at {volume.path!r}", _LEAST_VOLUME)


def _secrets(secrets: dict[str, str], where: str) -> None:
    for variable, text in secrets.items():
        if not re.fullmatch(r"[^/]+/[^/]+", text):
            raise ConfigError(f"{where}: the secret of {variable} can't be {text!r}.", "Write SECRET/KEY.")

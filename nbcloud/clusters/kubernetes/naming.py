"""What everything of a cluster is called in Kubernetes, and the labels by which it is found."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
from dataclasses import dataclass
from typing import Any

from nbcloud.config.profiles import KubernetesProfile
from nbcloud.errors import ConfigError

MANAGED_BY = {"app.kubernetes.io/managed-by": "nbcloud"}
OWNER = "nbcloud/owner"
PROFILE = "nbcloud/profile"
FACTS = "nbcloud/facts"
"""Annotation of the ``DaskCluster`` with what a client has to know; JSON."""
CLUSTER = "dask.org/cluster-name"
GROUP = "dask.org/workergroup-name"
COMPONENT = "dask.org/component"

PORT = 8786
_LONGEST = 40  # with what the operator appends, pods keep within the 63 characters of a label


def owner() -> str:
    """Who we are, as the value of a label; on a JupyterHub, where all have one name, its user."""
    try:
        name = os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        name = "nobody"
    plain = _plain(name)[:50].strip("-")
    return plain if plain == name else f"{plain or 'u'}-{hashlib.sha256(name.encode()).hexdigest()[:5]}"


def object_label(profile: str) -> str:
    """A profile's name as the value of a label."""
    return _plain(profile)[:63]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def object_name(profile: str, settings: KubernetesProfile) -> str:
    """Name of the ``DaskCluster`` of a profile.

    Raises
    ------
    ConfigError
        For a ``cluster_name`` that Kubernetes would refuse.
    """
    if not settings.cluster_name:
        return _made_of(profile)
    name = settings.cluster_name
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{_LONGEST - 2}}}[a-z0-9])?", name):
        raise ConfigError(
            f"profiles.{profile}.cluster_name can't be {name!r}.",
            f"Use up to {_LONGEST} small letters, digits and '-', the first a letter.",
        )
    return name


def _made_of(profile: str) -> str:
    """A name for a profile's cluster that no other profile and no other user has."""
    user, name = owner()[: _LONGEST // 3].strip("-"), _plain(profile)
    room = _LONGEST - len(user) - 1
    if name != profile or len(name) > room or not name[:1].isalpha():  # Services begin with a letter
        mark = hashlib.sha256(profile.encode()).hexdigest()[:5]
        name = f"{f'c{name}' if not name[:1].isalpha() else name}"[: room - 6].strip("-") + f"-{mark}"
    return f"{name}-{user}"


@dataclass(frozen=True)
class Where:
    """A place in Kubernetes: which cluster of it, as whom, and the namespace."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""

    @classmethod
    def of(cls, settings: KubernetesProfile | dict[str, Any]) -> Where:
        """The place that a profile, or the options of a registered cluster, names."""
        table = settings if isinstance(settings, dict) else vars(settings)
        return cls(*(table.get(name, "") for name in ("kubeconfig", "context", "namespace")))


def scheduler_host(name: str, namespace: str) -> str:
    """Name of the scheduler's service inside Kubernetes."""
    return f"{name}-scheduler.{namespace}.svc.cluster.local"

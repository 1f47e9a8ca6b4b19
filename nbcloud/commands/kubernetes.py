"""``nbcloud kubernetes …`` and ``nbcloud doctor``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable

from nbcloud import __version__
from nbcloud.clusters import connect as clusters
from nbcloud.clusters import environment, registry
from nbcloud.clusters.base import Progress
from nbcloud.clusters.kubernetes import checks, manifests, operator, roles
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.commands.answers import Answer
from nbcloud.config import settings
from nbcloud.config.profiles import KubernetesProfile, profile, profiles
from nbcloud.errors import ClusterNotFound, NbcloudError, UsageError
from nbcloud.extras import check


def doctor(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Look whether all is there that clusters need."""
    wanted = arguments.profile or settings().cluster
    found = [*_here()]
    known = profile(wanted)
    info = registry.get(wanted)
    if known is None and info is None and wanted != "local":
        names = ", ".join(sorted(profiles())) or "none"
        raise ClusterNotFound(f"There is neither a profile nor a cluster {wanted!r}; profiles: {names}.")
    if isinstance(known, KubernetesProfile):
        pod = not arguments.no_pod and info is None
        found += _told(checks.examine(wanted, known, pod=pod, progress=progress), progress)
    if info is not None:
        progress(f"asking {wanted!r}")
        found += _up(wanted)
    return _answer(found)


def _told(findings: Iterable[checks.Finding], progress: Progress) -> Iterable[checks.Finding]:
    for finding in findings:
        progress(f"{finding.what}: {finding.text}")
        yield finding


def _here() -> Iterable[checks.Finding]:
    mine = environment.here()
    dask = mine.packages.get("dask", "")
    text = f"nbcloud {__version__}, Python {mine.python}, dask {dask}"
    yield checks.Finding("here", "ok", text)


def _up(name: str) -> Iterable[checks.Finding]:
    try:
        info = clusters.resolve(name, start=False)
        sides = environment.there(info)
    except NbcloudError as error:
        yield checks.Finding("cluster", "bad", error.message, error.hint)
        return
    workers = len(sides) - 1
    yield checks.Finding("cluster", "ok", f"up at {info.address}, workers: {workers}")
    told = set()
    for where, facts in sides.items():
        whose = "the scheduler" if where == "scheduler" else "a worker"
        for finding in checks.versions(facts, whose):
            if finding not in told:
                told.add(finding)
                yield finding


def _answer(found: list[checks.Finding]) -> Answer:
    rows = [[each.what, each.state, each.text, each.hint] for each in found]
    data = [vars(each) for each in found]
    bad = [each for each in found if each.state == "bad"]
    text = "" if bad else "All that must be so is so."
    if bad:
        text = f"Mend first: {bad[0].what}: {bad[0].text}. {bad[0].hint}"
    return Answer(text, ["what", "state", "found", "next"], rows, data, failed=bool(bad))


# --- nbcloud kubernetes ----------------------------------------------------------------------------------


def kubernetes(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Install or remove the operator, print roles."""
    check("dask_kubernetes", "for clusters on Kubernetes")
    where = _where(arguments.profile)
    match arguments.action:
        case "install" if arguments.dry_run:
            return _yaml(operator.manifests(arguments.image))
        case "install":
            namespace = operator.install(where, arguments.image, progress=progress)
            return Answer(f"The operator runs in the namespace {namespace!r}. Next: nbcloud up PROFILE")
        case "uninstall":
            operator.uninstall(where, custom_resources_too=arguments.all, progress=progress)
            return Answer("The operator is removed.")
    return _yaml(_roles(arguments.profile))


def _where(name: str | None) -> Where:
    if name is None:
        return Where()
    known = profile(name)
    if not isinstance(known, KubernetesProfile):
        raise UsageError(f"There is no profile {name!r} of kind kubernetes.", "See: nbcloud profiles")
    return Where.of(known)


def _yaml(made: list[manifests.Manifest]) -> Answer:
    import yaml

    return Answer(yaml.dump_all(json.loads(json.dumps(made)), sort_keys=False).rstrip(), data=made)


def _roles(name: str | None) -> list[manifests.Manifest]:
    """A role for people who start clusters, and one for the stewards of all their clusters."""
    known = profile(name) if name else None
    namespace = (known.namespace if isinstance(known, KubernetesProfile) else "") or "default"
    return roles.user_roles(namespace, checks.NEEDED)

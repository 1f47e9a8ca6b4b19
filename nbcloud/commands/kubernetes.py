"""``nbcloud kubernetes …`` and ``nbcloud doctor``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from nbcloud import __version__
from nbcloud.clusters import connect as clusters
from nbcloud.clusters import environment, registry
from nbcloud.clusters.base import Progress
from nbcloud.clusters.kubernetes import checks, manifests, operator, roles
from nbcloud.clusters.kubernetes.findings import Finding
from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.commands.answers import Answer, yaml_answer
from nbcloud.config import settings
from nbcloud.config.profiles import ExistingProfile, KubernetesProfile, LocalProfile, names, profile
from nbcloud.config.tables import nearest
from nbcloud.errors import ClusterNotFound, NbcloudError, UsageError
from nbcloud.extras import check
from nbcloud.wording import counted, size_text


def doctor(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Look whether all is there that clusters need."""
    wanted = arguments.profile or settings().cluster
    found = [*_here()]
    known = profile(wanted)
    info = registry.get(wanted)
    if known is None and info is None and wanted != "local":
        known_names = [*names(), *(each.name for each in registry.entries())]
        hint = nearest(wanted, known_names) if known_names else ""
        raise ClusterNotFound(f"There is neither a profile nor a cluster {wanted!r}.", hint)
    if isinstance(known, KubernetesProfile):
        pod = not arguments.no_pod and info is None
        found += _told(checks.examine(wanted, known, pod=pod, progress=progress), progress)
    if isinstance(known, ExistingProfile) and info is None:
        found += _scheduler(wanted, known, progress)
    if info is None and (known is None or isinstance(known, LocalProfile)):
        found += _would_be(wanted, known or LocalProfile())
    if info is not None:
        progress(f"asking {wanted!r}")
        found += _up(wanted)
    return _answer(found)


def _told(findings: Iterable[Finding], progress: Progress) -> Iterable[Finding]:
    for finding in findings:
        progress(f"{finding.what}: {finding.text.rstrip('.')}")
        yield finding


def _here() -> Iterable[Finding]:
    mine = environment.here()
    dask = mine.packages.get("dask", "")
    text = f"nbcloud {__version__}, Python {mine.python}, dask {dask}"
    yield Finding("here", "ok", text)


def _scheduler(name: str, known: ExistingProfile, progress: Progress) -> Iterable[Finding]:
    """Whether the scheduler answers that a profile names."""
    try:
        info = clusters.look(name, known, progress=progress)
    except NbcloudError as error:
        yield Finding("scheduler", "bad", error.message, error.hint)
        return
    yield Finding("scheduler", "ok", f"answers at {info.address}, workers: {info.workers}")


def _would_be(name: str, known: LocalProfile) -> Iterable[Finding]:
    """What a local cluster would be that is not up."""
    workers = counted(known.workers, "worker") if known.workers else "as many workers as fit"
    threads = f" of {counted(known.threads, 'thread')}" if known.threads else ""
    memory = f", {size_text(known.memory)} each" if known.memory else ""
    text = f"not up; it would be {workers}{threads}{memory}, on this machine"
    yield Finding("cluster", "ok", text, f"To start it: %cloud up {name}")


def _up(name: str) -> Iterable[Finding]:
    try:
        info = clusters.resolve(name, start=False)
        sides = environment.there(info)
    except ClusterNotFound:  # it is over, and was registered still
        yield Finding("cluster", "ok", "not up", f"To start it: %cloud up {name}")
        return
    except NbcloudError as error:
        yield Finding("cluster", "bad", error.message, error.hint)
        return
    workers = len(sides) - 1
    yield Finding("cluster", "ok", f"up at {info.address}, workers: {workers}")
    told = set()
    for where, facts in sides.items():
        whose = "the scheduler" if where == "scheduler" else "a worker"
        for finding in checks.versions(facts, whose):
            if finding not in told:
                told.add(finding)
                yield finding


_ABOUT = {"kopf": "the framework of the operator"}
"""What not everybody knows."""


def _answer(found: list[Finding]) -> Answer:
    rows = [[_what(each), each.state, each.text, each.hint] for each in found]
    data = [vars(each) for each in found]
    bad = [each for each in found if each.state == "bad"]
    text = "" if bad else "All that must be so is so."
    if bad:
        text = f"Mend first: {bad[0].what}: {bad[0].text.rstrip('.')}. {bad[0].hint}".strip()
    return Answer(text, ["what", "state", "found", "next"], rows, data, failed=bool(bad))


def _what(finding: Finding) -> str:
    about = _ABOUT.get(finding.what)
    return f"{finding.what} ({about})" if about else finding.what


# --- nbcloud kubernetes ----------------------------------------------------------------------------------


def kubernetes(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Install or remove the operator, print roles."""
    check("dask_kubernetes", "for clusters on Kubernetes")
    where = _where(arguments.profile)
    match arguments.action:
        case "install" if arguments.dry_run:
            return yaml_answer(operator.manifests(arguments.image))
        case "install":
            namespace = operator.install(where, arguments.image, progress=progress)
            return Answer(f"The operator runs in the namespace {namespace!r}. Next: nbcloud up PROFILE")
        case "uninstall":
            operator.uninstall(where, custom_resources_too=arguments.all, progress=progress)
            return Answer("The operator is removed.")
    return yaml_answer(_roles(arguments.profile))


def _where(name: str | None) -> Where:
    if name is None:
        return Where()
    known = profile(name)
    if not isinstance(known, KubernetesProfile):
        raise UsageError(f"There is no profile {name!r} of kind kubernetes.", "See: nbcloud profiles")
    return Where.of(known)


def _roles(name: str | None) -> list[manifests.Manifest]:
    """A role for people who start clusters, and one for the stewards of all their clusters."""
    known = profile(name) if name else None
    namespace = (known.namespace if isinstance(known, KubernetesProfile) else "") or "default"
    return roles.user_roles(namespace, checks.NEEDED)

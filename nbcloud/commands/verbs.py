"""The commands that need no notebook: clusters, runs and their records."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbcloud.clusters import connect as clusters
from nbcloud.clusters import existing, registry
from nbcloud.clusters.base import DEFAULT_GROUP, ClusterInfo, Progress, TLSFiles
from nbcloud.clusters.kubernetes import backend as kubernetes
from nbcloud.clusters.kubernetes.changes import changed
from nbcloud.commands.answers import Answer, ago, facts_of, yaml_answer
from nbcloud.commands.cost import cost, keep_cost
from nbcloud.commands.models import add_model_verbs
from nbcloud.commands.parser import Parser, read_option
from nbcloud.commands.reproduce import add_diff_options, diff
from nbcloud.commands.uses import uses_text
from nbcloud.config import parse_bytes, parse_seconds, settings
from nbcloud.config.profiles import KubernetesProfile, profile
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.cancel import cancel as cancel_run
from nbcloud.dispatch.links import link_to
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import ClusterNotFound, NbcloudError, RunNotFound, UsageError
from nbcloud.runs.record import RunState
from nbcloud.sessions.spool import remove_orphans
from nbcloud.wording import counted, size_text

if TYPE_CHECKING:
    from nbcloud.sessions.client.link import Link

_HEALTHY_SECONDS = 2.0

Verb = Callable[[argparse.Namespace, Progress], Answer | None]


def add_verbs(parser: Parser) -> argparse._SubParsersAction[Parser]:
    """Give a parser the commands of this module; returns the place for more."""
    verbs = parser.add_subparsers(metavar="COMMAND", dest="verb", parser_class=Parser)
    _add_cluster_verbs(verbs)
    _add_run_verbs(verbs)
    add_model_verbs(verbs)
    return verbs


def add_verb(
    verbs: argparse._SubParsersAction[Parser], name: str, verb: Verb, text: str, *, listing: bool = False
) -> Parser:
    """Add one command; ``listing`` gives it ``--json``."""
    parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(function=verb)
    if listing:
        parser.add_argument("--json", action="store_true", help="answer with JSON")
    return parser


def _add_cluster_verbs(verbs: argparse._SubParsersAction[Parser]) -> None:
    parser = add_verb(
        verbs,
        "up",
        up,
        "start a cluster: a local one, that of a profile, or register a scheduler that exists",
    )
    parser.add_argument(
        "cluster",
        nargs="?",
        help="a profile, a name (local), or an address: tcp://HOST:PORT, tls://HOST:PORT",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be asked of Kubernetes, and change nothing"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each worker")
    parser.add_argument("--memory", metavar="SIZE", help="memory of each worker (4GiB)")
    parser.add_argument(
        "--idle-timeout",
        metavar="TIME",
        help="stop after so long without a run (2h); 0 never",
    )
    parser.add_argument("--name", help="a name for a scheduler given by address")
    for part in ("ca", "cert", "key"):
        parser.add_argument(f"--tls-{part}", metavar="FILE", help=f"PEM file for tls:// addresses: {part}")
    parser = add_verb(verbs, "down", down, "stop a cluster, or forget a registered scheduler")
    parser.add_argument("cluster", nargs="?", help="its name")
    parser.add_argument("--all", action="store_true", help="every cluster of this user")
    add_verb(verbs, "ls", _list, "list the clusters that are up", listing=True)
    parser = add_verb(verbs, "status", status, "show a cluster's workers, sessions and runs", listing=True)
    parser.add_argument("cluster", nargs="?", help="its name")
    parser = add_verb(verbs, "scale", scale, "change the number of a cluster's workers")
    parser.add_argument("workers", help="how many; auto: as many as the work needs")
    parser.add_argument("-c", "--cluster", help="its name")
    parser.add_argument("-g", "--group", default=DEFAULT_GROUP, help="a group of its workers (default)")
    parser = add_verb(
        verbs, "doctor", _doctor, "look whether all is there that a cluster needs", listing=True
    )
    parser.add_argument("profile", nargs="?", help="a profile, or a cluster that is up")
    parser.add_argument("--no-pod", action="store_true", help="don't run a pod to look into the image")
    parser = add_verb(
        verbs,
        "sync",
        _sync,
        "compare packages with a cluster's workers, install what is missing",
        listing=True,
    )
    parser.add_argument("cluster", nargs="?", help="its name")
    parser.add_argument("--all", action="store_true", help="all packages, not only those imported here")
    parser.add_argument("--install", action="store_true", help="install what is missing there")
    parser = add_verb(verbs, "cost", cost, "tell what a cluster's workers have cost so far", listing=True)
    parser.add_argument("cluster", nargs="?", help="its name")
    add_verb(verbs, "profiles", _profiles, "list the profiles of nbcloud.toml", listing=True)


def _doctor(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.commands.kubernetes import doctor

    return doctor(arguments, progress)


def _sync(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.commands.sync import sync

    return sync(arguments, progress)


def _list(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.commands.listing import list_clusters

    return list_clusters(arguments, progress)


def _profiles(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.commands.profiles import list_profiles

    return list_profiles(arguments, progress)


def _runs(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.commands import runs

    actions: dict[str, Verb] = {
        "runs": runs.list_runs,
        "experiments": runs.experiments,
        "compare": runs.compare,
        "artifacts": runs.artifacts,
        "delete": runs.delete,
        "restore": runs.restore,
        "gc": runs.gc,
    }
    return actions[arguments.verb](arguments, progress)  # type: ignore[return-value]


def _add_run_verbs(verbs: argparse._SubParsersAction[Parser]) -> None:
    parser = add_verb(verbs, "runs", _runs, "list runs on record, the newest first", listing=True)
    parser.add_argument("text", nargs="*", help="words in code, name, tags or error")
    parser.add_argument("--state", choices=[state.value for state in RunState], help="only in this state")
    parser.add_argument("--tag", help="only with this tag (KEY or KEY=VALUE)")
    parser.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="at most so many (20)")
    parser.add_argument("--filter", help="only where this holds: metrics.loss < 0.3 and params.lr = 0.1")
    parser.add_argument(
        "--order-by", metavar="KEY", help="the best first: metrics.loss, metrics.accuracy desc"
    )
    parser.add_argument("--metrics", action="store_true", help="with the params and metrics that they logged")
    parser.add_argument("--deleted", action="store_true", help="those that were deleted and not removed yet")
    add_verb(verbs, "experiments", _runs, "list experiments, with the number of their runs", listing=True)
    parser = add_verb(verbs, "compare", _runs, "show what runs logged side by side", listing=True)
    parser.add_argument("run", nargs="+", metavar="RUN", help="its id, the beginning of it, or its name")
    add_diff_options(add_verb(verbs, "diff", diff, "show in what two runs differ", listing=True))
    parser = add_verb(verbs, "artifacts", _runs, "list or copy the files that a run logged", listing=True)
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of it, or its name")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="copy them there")
    for name, text in (
        ("delete", "put runs away, and what is nested in them"),
        ("restore", "bring deleted runs back"),
    ):
        parser = add_verb(verbs, name, _runs, text)
        parser.add_argument("run", nargs="+", metavar="RUN", help="its id, the beginning of it, or its name")
    parser = add_verb(verbs, "gc", _runs, "remove what was deleted long ago, and files that no run has")
    parser.add_argument("--older", default="30d", metavar="TIME", help="deleted so long ago (30d)")
    parser = add_verb(verbs, "cancel", cancel, "stop a run for sure")
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of it, or its name")


def up(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Start or register a cluster, and bring nbcloud to it."""
    name = arguments.cluster or settings().cluster
    options: dict[str, Any] = {
        "workers": arguments.workers,
        "threads": arguments.threads,
        "memory": read_option("--memory", arguments.memory, parse_bytes),
        "idle_timeout": read_option("--idle-timeout", arguments.idle_timeout, parse_seconds),
    }
    if arguments.dry_run:
        return yaml_answer(clusters.dry_run(name, **options))
    started = time.monotonic()
    before = {info.id for info in registry.entries()}
    if "://" in name:
        given = [arguments.tls_ca, arguments.tls_cert, arguments.tls_key]
        if any(given) and not all(given):
            raise UsageError("--tls-ca, --tls-cert and --tls-key belong together.")
        tls = TLSFiles(*given) if all(given) else None
        info = existing.up(name, arguments.name, tls=tls, progress=progress)
        options = {}
    else:
        info = clusters.up(name, **options, progress=progress)
    progress("bringing nbcloud to its scheduler and workers")
    skew = link_to(info, progress=progress).skew
    text = f"The cluster {info.name!r} is up at {info.address}"
    if info.is_ours and info.workers:
        workers, threads = counted(info.workers, "worker"), counted(info.threads, "thread")
        text += f": {workers} of {threads} and {size_text(info.memory)}"
    words = "\n".join(["", *skew])
    if info.id in before:
        return Answer(f"{text} (was up already).{_ignored(info, options)}{words}", data=facts_of(info))
    return Answer(f"{text} ({time.monotonic() - started:.1f} s).{words}", data=facts_of(info))


def _ignored(info: ClusterInfo, options: dict[str, Any]) -> str:
    """What was asked of a cluster that is up already, and is not so; and what would make it so."""
    differ = {
        option: wanted
        for option, wanted in options.items()
        if wanted is not None and wanted != getattr(info, option)
    }
    workers = differ.pop("workers", None)
    sentences = ["", *_not_as_the_profile(info)]
    if differ:
        flags = ", ".join(f"--{option.replace('_', '-')}" for option in differ)
        sentences.append(f"{flags} can't be changed while it is up; to start anew: %cloud down {info.name}")
    if workers is not None:
        which = "" if info.name == settings().cluster else f" -c {info.name}"
        sentences.append(f"To have {counted(workers, 'worker')}: %cloud scale {workers}{which}")
    return "\n".join(sentences)


def _not_as_the_profile(info: ClusterInfo) -> list[str]:
    known = profile(info.name)
    if not isinstance(known, KubernetesProfile):
        return []
    found = changed(info.options.get("settings", {}), known)
    return [f"{'; '.join(found)}. To take that on: %cloud down {info.name}, then up"] if found else []


def down(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Stop our clusters and forget the others, after what they still have to tell is on record."""
    infos = registry.entries() if arguments.all else [_known(arguments.cluster)]
    if not infos:
        return Answer("No cluster is up.", data=[])
    going: list[str] = []
    for info in infos:
        progress(f"completing the records of {info.name!r}")
        complete_records()
        going += _going(info)
        if info.is_ours:
            keep_cost(info)
        progress(f"{'stopping' if info.is_ours else 'forgetting'} {info.name!r}")
        clusters.down(info)
    complete_records()
    remove_orphans()
    return Answer(_farewell(infos, going), data=[info.name for info in infos])


def _going(info: ClusterInfo) -> list[str]:
    """Runs that end with the cluster, as far as it says; one that is ill is stopped all the same."""
    if not info.is_ours or not clusters.alive(info):
        return []
    with contextlib.suppress(NbcloudError):
        clusters.status(info, timeout=_HEALTHY_SECONDS)
        return [run["id"] for run in _unfinished(link_to(info))]
    return []


def _farewell(infos: list[ClusterInfo], going: list[str]) -> str:
    stopped = ", ".join(repr(info.name) for info in infos if info.is_ours)
    sentences = [f"Stopped: {stopped}."] if stopped else []
    if going:
        were = "was" if len(going) == 1 else "were"
        sentences[0] += f" {counted(len(going), 'run')} {were} going: {', '.join(going)}."
    sentences += [
        f"Forgotten: {info.name!r}. Its scheduler at {info.address} was not started by nbcloud, and goes on."
        for info in infos
        if not info.is_ours
    ]
    return "\n".join(sentences)


def _known(name: str | None) -> ClusterInfo:
    """A cluster that is registered, whether it answers or not."""
    name = name or settings().cluster
    infos = registry.entries()
    found = next((info for info in infos if name in {info.name, info.address}), None)
    if found is None and isinstance(profile(name), KubernetesProfile):
        found = kubernetes.find(name)  # brought up from another machine, perhaps
    if found is None:
        there = f"there are: {', '.join(info.name for info in infos)}" if infos else "none is up"
        hint = f" To stop that: %cloud down {infos[0].name}" if len(infos) == 1 else ""
        raise ClusterNotFound(f"No cluster named {name!r} is up; {there}.", f"Nothing was stopped.{hint}")
    return found


def status(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Workers, sessions and runs of one cluster."""
    info, which = clusters.meant(arguments.cluster)
    facts = clusters.status(info)
    link = link_to(info)
    sessions, unfinished = link.ask("sessions", timeout=5), _unfinished(link)
    names = {session["id"]: session["name"] for session in sessions}
    rows = [
        [
            "worker",
            worker["address"],
            counted(worker["nthreads"], "thread"),
            size_text(worker["memory_limit"]),
            "",
            "",
        ]
        for worker in facts["workers"]
    ]
    rows += [
        [
            "session",
            session["name"],
            "busy" if session["active"] else session["state"],
            counted(len(session["names"]), "name"),
            session["worker"],
            f"not preloaded: {session['cold']}" if session["cold"] else "",
        ]
        for session in sessions
    ]
    rows += [
        [
            "run",
            f"{run['id']} {run['name']}".rstrip(),
            run["state"],
            counted(run["messages"], "message"),
            names.get(run["session"], run["session"]),
            uses_text(run.get("uses", [])),
        ]
        for run in unfinished
    ]
    troubles = kubernetes.troubles(info) if info.kind == "kubernetes" else []
    rows += [["pod", each.about, each.kind, "", each.text, ""] for each in troubles]
    text = f"{which} The cluster {info.name!r} at {info.address}, started {ago(info.created)}.".strip()
    data = {**facts_of(info), "workers": facts["workers"], "sessions": sessions, "runs": unfinished}
    if troubles:
        data["troubles"] = [vars(each) for each in troubles]
    return Answer(text, ["", "name", "state", "size", "where", "uses"], rows, data)


def _unfinished(link: Link) -> list[dict[str, Any]]:
    """What the cluster knows of its unfinished runs, with their names as far as they are on record."""
    found = [run for run in link.ask("runs", timeout=5) if run["state"] in {"queued", "running"}]
    with open_store() as store:
        for run in found:
            run["name"] = ""
            with contextlib.suppress(RunNotFound):
                run["name"] = store.get(run["id"]).name
    return found


def scale(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Add or remove workers, or leave their number to the work again."""
    number = _number(arguments.workers)
    info, which = clusters.meant(arguments.cluster)
    if number is None:
        clusters.follow(info, arguments.group)
        text = f"The group {arguments.group!r} of {info.name!r} follows the work again; see %cloud status."
        return Answer(f"{which} {text}".strip(), data=facts_of(info))
    progress(f"scaling {info.name!r} to {counted(number, 'worker')}")
    told: list[str] = []
    info = clusters.scale(info, number, arguments.group, progress=told.append)
    text = " ".join(told) or f"The cluster {info.name!r} has {counted(info.workers, 'worker')}."
    return Answer(f"{which} {text}".strip(), data=facts_of(info))


def _number(text: str) -> int | None:
    """A number of workers; None for ``auto``."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise UsageError(
            f"WORKERS {text!r}: it must be a whole number, or auto.", "Write for example: %cloud scale 2"
        ) from None


def cancel(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Stop a run."""
    with open_store() as store:
        run = store.get(arguments.run)
    return Answer(cancel_run(run), data=run.to_json())

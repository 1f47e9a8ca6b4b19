"""``nbcloud models …``: what the registry has, and what is done with it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, ago
from nbcloud.commands.parser import Parser
from nbcloud.commands.samples import read_sample
from nbcloud.config import settings
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import ModelError, UsageError
from nbcloud.runs.mirror.wake import wake
from nbcloud.wording import size_text

if TYPE_CHECKING:
    from nbcloud.models.registry import Registry, Version

_COLUMNS = ["version", "aliases", "stage", "framework", "size", "variants", "metrics", "made"]


def add_model_verbs(verbs: argparse._SubParsersAction[Parser]) -> None:
    """Add ``models`` with its actions."""
    text = "list models, versions; move aliases, tag, compare, delete"
    parser = verbs.add_parser("models", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(function=_models)
    actions = parser.add_subparsers(metavar="ACTION", dest="action", parser_class=Parser, required=True)
    reference = "digits, digits/3 or digits@champion"

    def add(
        action: str, act: Callable[[argparse.Namespace, Registry], Answer], text: str, **words: str
    ) -> Parser:
        made: Parser = actions.add_parser(action, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(act=act)
        for word, meaning in words.items():
            made.add_argument(word, help=meaning)
        made.add_argument("--registry", help="another registry: a folder, or an address (s3://bucket/models)")
        made.add_argument("--json", action="store_true", help="answer with JSON")
        return made

    add("ls", _list, "list the models, or the versions of one").add_argument(
        "name", nargs="?", help="a model"
    )
    add("show", _show, "tell all about a version", model=reference)
    add("alias", _alias, "have an alias mean a version from now on", model=reference, alias="champion")
    add("unalias", _unalias, "take an alias away", name="the model", alias="champion")
    add("rollback", _roll_back, "have an alias mean what it meant before", name="the model", alias="champion")
    add("tag", _tag, "set a tag of a version", model=reference, tag="key=value")
    add("untag", _untag, "take a tag away", model=reference, key="the tag")
    add(
        "stage",
        _stage,
        "say how far a version is approved",
        model=reference,
        stage="none, staging, production, archived",
    )
    add("diff", _diff, "tell what differs between two versions", before=reference, after=reference)
    add("history", _history, "tell all that happened to a model", name="the model")
    add(
        "get",
        _get,
        "copy a version's ONNX file",
        model=f"{reference}, digits/3#int8",
        path="a file that is not there yet, or a folder",
    )
    made = add("push", _push, "register a version in MLflow", model=reference)
    made.add_argument("target", help="mlflow:NAME, mlflow:NAME@ALIAS; mlflow: for the same name")
    _add_tracking(made)
    made = add("pull", _pull, "register a version of MLflow here", source="mlflow:NAME@ALIAS, mlflow:NAME/3")
    made.add_argument("--name", help="another name than there")
    made.add_argument(
        "--sample", metavar="FILE", help="what it takes; needed for one that nbcloud did not push"
    )
    _add_tracking(made)
    made = add(
        "rm",
        _remove,
        "delete a version or a variant to which nothing points",
        model="digits/3, digits/3#int8",
    )
    made.add_argument("--bundle", metavar="FILE", help="forget this bundle of it, and delete nothing else")
    made.add_argument("-y", "--yes", action="store_true", help="do it")


def _add_tracking(parser: Parser) -> None:
    parser.add_argument("--tracking", metavar="ADDRESS", help="where MLflow is (MLFLOW_TRACKING_URI)")


def _models(arguments: argparse.Namespace, progress: Progress) -> Answer:
    from nbcloud.models.registry import Registry

    progress("asking the registry")
    answer: Answer = arguments.act(arguments, Registry(arguments.registry))
    return answer


def _list(arguments: argparse.Namespace, registry: Registry) -> Answer:
    if arguments.name:
        versions = registry.versions(arguments.name)[::-1]
        return Answer(
            "", _COLUMNS, [_row(version) for version in versions], [_data(each) for each in versions]
        )
    rows, data, troubles = [], [], []
    for name in registry.names():
        try:
            versions = registry.versions(name)
            newest = versions[-1]
            aliases = ", ".join(
                f"@{alias} → {meant}" for alias, meant in registry.state(name).current.items()
            )
            made = ago(newest.entry.created)
            rows.append([name, str(len(versions)), aliases, newest.metadata.framework, made])
            data.append({"name": name, "versions": len(versions), "newest": _data(newest)})
        except ModelError as error:  # the other models are there all the same
            rows.append([name, "?", "", "", ""])
            data.append({"name": name, "trouble": error.message})
            troubles.append(f"{name}: {error.message}")
    text = f"The registry {registry.root!r} has no model yet. To make one: nbcloud.export(…)"
    columns = ["model", "versions", "aliases", "framework", "newest"]
    return Answer("\n".join(troubles) if rows else text, columns, rows, data)


def _row(version: Version) -> list[str]:
    entry, metadata = version.entry, version.metadata
    return [
        str(version.number),
        " ".join(f"@{alias}" for alias in version.aliases),
        "" if entry.stage == "none" else entry.stage,
        metadata.framework,
        size_text(entry.size),
        ", ".join(entry.variants),
        ", ".join(f"{key} {_text(value, 4)}" for key, value in metadata.metrics.items()),
        ago(entry.created),
    ]


def _data(version: Version) -> dict[str, Any]:
    entry, metadata = version.entry, version.metadata
    return {
        "uri": version.uri,
        "name": version.name,
        "version": version.number,
        "aliases": list(version.aliases),
        "stage": entry.stage,
        "tags": entry.tags,
        "created": entry.created,
        "by": entry.by,
        "run": entry.run,
        "files": [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in entry.files],
        "variants": {name: variant.facts for name, variant in entry.variants.items()},
        "bundles": entry.bundles,
        "framework": metadata.framework,
        "exporter": metadata.exporter,
        "opset": metadata.opset,
        "versions": metadata.versions,
        "metrics": metadata.metrics,
        "licence": metadata.licence,
        "notes": metadata.notes,
        "verification": metadata.verification,
        "inputs": [each.to_json() for each in metadata.takes],
        "outputs": [each.to_json() for each in metadata.signature.outputs],
    }


def _show(arguments: argparse.Namespace, registry: Registry) -> Answer:
    version = registry.get(arguments.model)
    entry, metadata = version.entry, version.metadata
    verified = metadata.verification
    rows = [
        ["model", version.uri + "".join(f" @{alias}" for alias in version.aliases)],
        ["stage", entry.stage],
        *[["takes", _described(each)] for each in metadata.takes],
        *[["gives", _described(each)] for each in metadata.signature.outputs],
        ["made by", f"{metadata.framework}, {metadata.exporter}, opset {metadata.opset}"],
        ["verified", _verified(verified)] if verified else ["verified", ""],
        *[[f"metric {key}", _text(value)] for key, value in metadata.metrics.items()],
        *[[f"tag {key}", value] for key, value in entry.tags.items()],
        *[
            ["variant", f"{name}: {size_text(sum(f.size for f in each.files))}"]
            for name, each in entry.variants.items()
        ],
        *[
            ["bundle", f"{each.get('file', '')} ({each.get('variant') or 'as it is'})"]
            for each in entry.bundles
        ],
        *[["note", note] for note in metadata.notes],
        ["licence", metadata.licence],
        ["run", entry.run],
        ["registered", f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.created))} by {entry.by}"],
        *[
            ["file", f"{file.name}, {size_text(file.size)}, sha256 {file.sha256[:16]}…"]
            for file in entry.files
        ],
    ]
    return Answer("", ["", ""], [row for row in rows if row[1]], _data(version))


def _described(tensor: Any) -> str:
    more = [tensor.meaning, tensor.unit and f"in {tensor.unit}"]
    if tensor.labels:
        shown = ", ".join(map(str, tensor.labels[:10])) + (", …" if len(tensor.labels) > 10 else "")
        more.append(f"classes: {shown}")
    if tensor.columns:
        more.append(
            f"columns: {', '.join(tensor.columns[:10])}" + (", …" if len(tensor.columns) > 10 else "")
        )
    return "; ".join([str(tensor), *(each for each in more if each)])


def _verified(report: dict[str, Any]) -> str:
    cases = len(report.get("compared", {}))
    worst = report.get("worst", 0.0) * report.get("tolerance", 0.0)
    precision = report.get("precision")
    return f"on {cases} cases; the largest difference is {worst:.2g} of the outputs' size ({precision})"


def _alias(arguments: argparse.Namespace, registry: Registry) -> Answer:
    version = registry.set_alias(arguments.model, arguments.alias.removeprefix("@"))
    _mirror_changes(version.name)
    return Answer(
        f"{version.name}@{arguments.alias.removeprefix('@')} is version {version.number} now.",
        data=_data(version),
    )


def _mirror_changes(name: str) -> None:
    """Have a mirror look at a model's aliases, tags and stages again: its last export is due there."""
    if settings().tracking:
        with open_store() as store:
            for run in store.search(filter=f"tags.model like 'models:/{name}/%'", limit=1):
                store.touch(run.id)
            wake(store.directory)


def _unalias(arguments: argparse.Namespace, registry: Registry) -> Answer:
    registry.remove_alias(arguments.name, arguments.alias.removeprefix("@"))
    _mirror_changes(arguments.name)
    return Answer(f"{arguments.name} has no @{arguments.alias.removeprefix('@')} any more.", data={})


def _roll_back(arguments: argparse.Namespace, registry: Registry) -> Answer:
    version = registry.roll_back(arguments.name, arguments.alias.removeprefix("@"))
    _mirror_changes(version.name)
    text = f"{version.name}@{arguments.alias.removeprefix('@')} is version {version.number} again."
    return Answer(text, data=_data(version))


def _tag(arguments: argparse.Namespace, registry: Registry) -> Answer:
    key, equals, value = arguments.tag.partition("=")
    if not key or not equals:
        raise UsageError(
            f"{arguments.tag!r} is no tag.",
            f"Write key=value. To take one away: %cloud models untag {arguments.model} {key or 'key'}",
        )
    version = registry.set_tag(arguments.model, key, value)
    _mirror_changes(version.name)
    return Answer(f"The tag {key!r} is {value!r} at {version.uri}.", data=_data(version))


def _untag(arguments: argparse.Namespace, registry: Registry) -> Answer:
    version = registry.get(arguments.model)
    if arguments.key not in version.entry.tags:
        known = ", ".join(version.entry.tags) or "none"
        raise UsageError(f"{version.uri} has no tag {arguments.key!r}.", f"It has: {known}.")
    version = registry.set_tag(arguments.model, arguments.key, None)
    _mirror_changes(version.name)
    return Answer(f"The tag {arguments.key!r} is taken away from {version.uri}.", data=_data(version))


def _stage(arguments: argparse.Namespace, registry: Registry) -> Answer:
    version = registry.set_stage(arguments.model, arguments.stage)
    _mirror_changes(version.name)
    return Answer(f"The stage of {version.uri} is {arguments.stage!r}.", data=_data(version))


def _diff(arguments: argparse.Namespace, registry: Registry) -> Answer:
    from nbcloud.models.registry.difference import differences

    before, after = registry.get(arguments.before), registry.get(arguments.after)
    found = differences(before, after)
    rows = [[each.what, *_both(each.before, each.after)] for each in found]
    data = [{"what": each.what, "before": each.before, "after": each.after} for each in found]
    text = "" if rows else f"{before.uri} and {after.uri} are the same."
    return Answer(text, ["", before.uri, after.uri], rows, data)


def _both(before: Any, after: Any) -> tuple[str, str]:
    if isinstance(before, dict) and isinstance(after, dict):
        changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        return "", f"{len(changed)} of {len(after)} differ"
    return _text(before), _text(after)


def _text(value: Any, digits: int = 6) -> str:
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _history(arguments: argparse.Namespace, registry: Registry) -> Answer:
    events = registry.history(arguments.name)
    rows = []
    for event in events:
        which = event.get("alias") or event.get("stage") or event.get("key") or event.get("variant") or ""
        rows.append([ago(event["time"]), event["kind"], str(event.get("version") or ""), which, event["by"]])
    return Answer("", ["when", "what", "version", "", "by"], rows, events)


def _get(arguments: argparse.Namespace, registry: Registry) -> Answer:
    from nbcloud.models import onnxfile
    from nbcloud.models.registry.reference import Reference

    version = registry.get(arguments.model)
    source = version.path(Reference.parse(arguments.model).variant)
    target = Path(arguments.path)
    if target.is_dir():
        target /= f"{version.name}-{version.number}.onnx"
    # Weights that are apart keep the name by which the model's file calls them.
    weights = {file: target.with_name(file.name) for file in onnxfile.files(source)[1:]}
    for path in (target, *weights.values()):
        if path.exists():
            raise UsageError(f"{path} is there already.", "Give another folder, or remove it.")
    for file, path in {**weights, source: target}.items():
        shutil.copyfile(file, path)
    return Answer(f"{version.uri} is in {target}.", data={"path": str(target)})


def _push(arguments: argparse.Namespace, registry: Registry) -> Answer:
    from nbcloud.models.registry import tracking

    version = registry.get(arguments.model)
    there = tracking.push(version, tracking.Reference.parse(arguments.target), arguments.tracking)
    alias = f" @{there.alias}" if there.alias else ""
    text = f"{version.uri} is version {there.version}{alias} of {there.name!r} in MLflow."
    return Answer(text, data={"uri": version.uri, "name": there.name, "version": there.version})


def _pull(arguments: argparse.Namespace, registry: Registry) -> Answer:
    from nbcloud.models.registry import tracking

    wanted = tracking.Reference.parse(arguments.source)
    name = arguments.name or wanted.name
    with tempfile.TemporaryDirectory(prefix="nbcloud-mlflow-", ignore_cleanup_errors=True) as folder:
        pulled = tracking.pull(wanted, Path(folder), arguments.tracking)
        tags = {**pulled.tags, "mlflow": str(pulled.reference)}
        if arguments.sample:
            from nbcloud.dispatch.export import export as export_model

            sample = read_sample(Path(arguments.sample))
            version = export_model(pulled.path, sample, name, tags=tags, registry=arguments.registry)
        elif pulled.verified:
            version = registry.add(pulled.path, name, tags=tags)
        else:
            raise UsageError(
                f"{pulled.reference} is not from nbcloud, so nothing is known of how right it is.",
                f"Give a sample to verify it with: %cloud models pull {pulled.reference} --sample FILE",
            )
    return exported(version)


def _remove(arguments: argparse.Namespace, registry: Registry) -> Answer:
    from nbcloud.models.registry.reference import Reference

    wanted = Reference.parse(arguments.model).exact()
    if not arguments.yes:
        registry.get(wanted)
        flag = f" --bundle {shlex.quote(arguments.bundle)}" if arguments.bundle else ""
        raise UsageError(
            f"This would {f'forget {arguments.bundle}' if flag else f'delete {arguments.model} for good'}.",
            f"To do it: %cloud models rm {arguments.model}{flag} -y",
        )
    if arguments.bundle:
        version = registry.forget_bundle(arguments.model, arguments.bundle)
        return Answer(f"{arguments.bundle} is forgotten at {version.uri}.", data=_data(version))
    freed = registry.delete(arguments.model)
    text = f"{arguments.model} is deleted; {size_text(freed)} are free."
    later = "" if freed else " Its files go with what is deleted a day from now."
    return Answer(text + later, data={"freed": freed})


def exported(version: Version) -> Answer:
    """What an export says."""
    metadata = version.metadata
    text = f"{version.uri}: verified {_verified(metadata.verification)}."
    notes = "".join(f"\n{note}" for note in metadata.notes)
    return Answer(text + notes, data=_data(version))

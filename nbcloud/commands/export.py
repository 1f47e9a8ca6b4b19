"""``%cloud export`` and ``nbcloud export``: models that leave the notebook."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.commands.models import exported
from nbcloud.commands.parser import Parser
from nbcloud.commands.samples import read_sample
from nbcloud.errors import UsageError


def add_export_options(parser: Parser) -> None:
    """The options of ``export`` that are the same in a notebook and in a shell."""
    parser.add_argument("--opset", type=int, metavar="N", help="the ONNX operator set")
    parser.add_argument("--exporter", help="where a framework has several: dynamo, legacy; tf2onnx, keras")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="KEY=VALUE", help="how good it is; repeatable"
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="a tag of the version; repeatable"
    )
    parser.add_argument("--licence", default="", help="under which it may be used")
    parser.add_argument("--alias", default="", help="an alias that means it from now on: champion")
    parser.add_argument("--registry", help="another registry: a folder, or an address (s3://bucket/models)")
    parser.add_argument("--json", action="store_true", help="answer with JSON")


def export(model: Any, sample: Any, arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Export a model as the options say, and register it."""
    from nbcloud.dispatch.export import export as export_model
    from nbcloud.models.registry.reference import check_alias

    alias = arguments.alias.removeprefix("@")
    if arguments.alias:
        check_alias(alias)  # before there is a version that has none
    version = export_model(
        model,
        sample,
        arguments.name,
        opset=arguments.opset,
        exporter=arguments.exporter,
        metrics={key: _number(value, key) for key, value in _pairs(arguments.metric, "--metric").items()},
        tags=_pairs(arguments.tag, "--tag"),
        licence=arguments.licence,
        registry=arguments.registry,
        progress=progress,
    )
    if alias:
        version = version.registry.set_alias(f"{version.name}/{version.number}", alias)
    return exported(version)


def export_file(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """``nbcloud export FILE SAMPLE --name NAME``."""
    path = Path(arguments.model)
    if not path.exists():
        raise UsageError(
            f"There is no {path}.", "Give the path of a model: .onnx, .keras, .h5 or a SavedModel."
        )
    return export(path, read_sample(Path(arguments.sample)), arguments, progress)


def _pairs(texts: list[str], flag: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{flag} {text!r} has no value.", f"Write for example: {flag} key=value")
        pairs[key] = value
    return pairs


def _number(text: str, key: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--metric {key}={text}: it must be a number.", "Write for example: accuracy=0.97"
        ) from None

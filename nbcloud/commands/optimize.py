"""``nbcloud optimize``: a registered model in smaller and faster forms, each measured, the best one kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.commands.parser import Parser, read_option
from nbcloud.commands.samples import read_sample
from nbcloud.config import parse_bytes, parse_seconds
from nbcloud.errors import UsageError
from nbcloud.models.tables import RULE


def add_optimize_options(parser: Parser) -> None:
    """What ``optimize`` takes."""
    parser.add_argument("model", metavar="MODEL", help="digits, digits/3 or digits@champion")
    parser.add_argument(
        "--target", required=True, help="cpu-x86, edge-arm64, edge-arm32, jetson, web, cloud-gpu"
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="FILE",
        help=f"real rows: .npy, .npz, .csv, .parquet, .json; {RULE}",
    )
    parser.add_argument(
        "--expected", metavar="FILE", help="what would be right for each row; or a column of the data"
    )
    parser.add_argument("--metric", help="accuracy or r2; found out otherwise")
    parser.add_argument("--max-drop", type=float, metavar="X", help="how much worse it may be (0.01)")
    parser.add_argument("--max-size", metavar="SIZE", help="how large it may be (5MiB)")
    parser.add_argument("--max-latency", metavar="TIME", help="how long one row may take (0.005s)")
    parser.add_argument("--only", action="append", metavar="FORM", help="try this form; repeatable")
    parser.add_argument(
        "--output", action="append", metavar="NAME", help="keep this output of the model; repeatable"
    )
    parser.add_argument("--dry-run", action="store_true", help="measure, and keep nothing")
    parser.add_argument("--registry", help="another registry: a folder, or an address (s3://bucket/models)")
    parser.add_argument("--json", action="store_true", help="answer with JSON")


def optimize(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Make, measure and choose."""
    from nbcloud.models.optimize.targets import target
    from nbcloud.models.registry import Registry

    target(arguments.target)  # before anything is read
    max_size = read_option("--max-size", arguments.max_size, parse_bytes)
    max_latency = read_option("--max-latency", arguments.max_latency, parse_seconds)
    data, expected = _read(arguments.data, arguments.expected)
    progress("asking the registry")
    version = Registry(arguments.registry).get(arguments.model)
    choice = version.optimize(
        arguments.target,
        data,
        expected,
        metric=arguments.metric,
        max_drop=arguments.max_drop,
        max_size=max_size,
        max_latency=max_latency,
        only=arguments.only,
        outputs=arguments.output,
        keep=not arguments.dry_run,
        progress=progress,
    )
    next_step = (
        f" To ship it: %cloud edge bundle {choice.variant} --golden {arguments.data} --sign KEY"
        if choice.variant
        else ""
    )
    return Answer(choice.note() + next_step, choice.columns, choice.rows(), choice.to_json())


def _read(path: Path, expected: str | None) -> tuple[Any, Any]:
    data = read_sample(path)
    if expected is None:
        return data, None
    columns = [str(each) for each in data.columns] if hasattr(data, "columns") else []
    if expected in columns:
        right = data.iloc[:, columns.index(expected)].to_numpy()
        return data.drop(columns=data.columns[columns.index(expected)]), right
    if not Path(expected).exists():
        known = f"The data has the columns {', '.join(columns)}." if columns else "Give a file of them."
        raise UsageError(f"--expected {expected!r}: there is no such file or column.", known)
    right = read_sample(Path(expected))
    if hasattr(right, "columns"):
        if len(right.columns) != 1:
            raise UsageError(f"--expected {expected}: it has {len(right.columns)} columns, not one.")
        right = right.to_numpy()
    if isinstance(right, dict):
        raise UsageError(f"--expected {expected}: it must be one array.", "Write it with numpy.save(…).")
    return data, right[:, 0] if right.ndim == 2 and right.shape[1] == 1 else right

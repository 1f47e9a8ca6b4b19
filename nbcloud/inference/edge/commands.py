"""What the commands on a device do; each returns whether it failed."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbcloud.errors import NbcloudError, UsageError
from nbcloud.inference.edge import inputs
from nbcloud.inference.edge.model import EdgeModel, load
from nbcloud.models.signature import Feeds

if TYPE_CHECKING:
    from nbcloud.inference.edge.store import Store
    from nbcloud.inference.edge.telemetry import Telemetry

# What only some commands need is imported there: a bundle's files are compiled anew at each start.

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Item = tuple[str, Callable[[], Any]]
"""Where an input is from, and what reads it."""


def run(arguments: argparse.Namespace) -> bool:
    """Answer inputs; where there are several, one that can't be answered does not end the others."""
    model = _model(arguments)
    with contextlib.ExitStack() as stack:
        telemetry: Telemetry | None = None
        if arguments.telemetry:
            from nbcloud.inference.edge.telemetry import Queue, Telemetry

            telemetry = stack.enter_context(Telemetry(Queue(arguments.telemetry), model, _say))
        several = arguments.input in ("-", "camera") or Path(arguments.input).is_dir()
        if not several:
            path = Path(arguments.input)
            document = _answered(model, str(path), inputs.read(model, path), telemetry)
            _show(model, document, as_json=arguments.json)
            return False
        failed = False
        for name, read in _items(model, arguments.input):
            try:
                document = _answered(model, name, read(), telemetry)
            except NbcloudError as error:
                failed, document = True, {"input": name, "error": str(error)}
            print(_json(document), flush=True)
        return failed


def _say(text: str) -> None:
    print(f"nbcloud: {text}", file=sys.stderr, flush=True)


def _items(model: EdgeModel, source: str) -> Iterator[Item]:
    if source == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):  # JSON is UTF-8, whatever the device's language
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        for number, read in enumerate(inputs.lines(sys.stdin), 1):
            yield f"line {number}", read
    elif source == "camera":
        for number, picture in enumerate(inputs.camera(model), 1):
            yield f"picture {number}", lambda picture=picture: picture  # type: ignore[misc]
    else:
        for path in inputs.files(Path(source)):
            yield path.name, lambda path=path: inputs.read(model, path)  # type: ignore[misc]


def _answered(model: EdgeModel, name: str, data: Any, telemetry: Telemetry | None) -> dict[str, Any]:
    started = time.perf_counter()
    answers = model.predict(data)
    seconds = time.perf_counter() - started
    if telemetry is not None:
        first = next(iter(model.golden_inputs))
        telemetry.observe(data if isinstance(data, dict) else {first: data}, seconds)
    return {"input": name, "answers": answers, "milliseconds": round(seconds * 1e3, 3)}


def _show(model: EdgeModel, document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(_json(document))
        return
    answers: Feeds = document["answers"]
    units = {each.name: each.unit for each in model.signature.outputs}
    for name, value in answers.items():
        text = np.array2string(np.asarray(value), precision=4, threshold=60, suppress_small=True)
        unit = f" {units[name]}" if units.get(name) else ""
        print(f"{name}: {text}{unit}" if "\n" not in text else f"{name}:{unit}\n{text}")


def verify(arguments: argparse.Namespace) -> bool:
    """Check a bundle."""
    model = _model(arguments)
    seconds = model.self_test()
    facts = {
        "model": model.manifest.title,
        "signed_by": model.signer,
        "milliseconds": round(seconds * 1e3, 3),
    }
    if arguments.json:
        print(_json(facts))
    else:
        signed = f"signed by {model.signer}" if model.signer else "not signed"
        print(f"{model.manifest.title} is whole, {signed}, and answers as it should.")
    return False


def info(arguments: argparse.Namespace) -> bool:
    """Say what a bundle is."""
    model = _model(arguments)
    manifest = model.manifest
    took = model.warm_up()
    if arguments.json:
        facts = json.loads(manifest.to_bytes())
        print(
            _json(
                {**facts, "signed_by": model.signer, "milliseconds": [round(each * 1e3, 3) for each in took]}
            )
        )
        return False
    size = sum(file.size for file in manifest.files.values())
    target = manifest.target
    rows = [
        ("model", manifest.title),
        ("made by", f"{manifest.metadata.framework}, {manifest.metadata.exporter}".strip(", ")),
        ("run", manifest.run),
        ("licence", manifest.licence),
        *(("takes", str(each)) for each in model.takes),
        *(("gives", str(each)) for each in model.signature.outputs),
        ("before it", _steps(manifest.metadata.preprocessing)),
        ("after it", _steps(manifest.postprocessing)),
        ("needs", f"onnxruntime {target.onnxruntime}, for the target {target.name}"),
        ("size", f"{size / 1e6:,.2f} MB"),
        ("signed by", model.signer or "nobody"),
        ("takes here", f"{min(took) * 1e3:,.2f} ms for the golden samples"),
    ]
    for name, text in rows:
        if text:
            print(f"{name:<11}{text}")
    return False


def _steps(steps: list[dict[str, Any]]) -> str:
    return ", ".join(str(step.get("step", step)) for step in steps)


def serve(arguments: argparse.Namespace) -> bool:
    """Answer by HTTP until Ctrl-C."""
    from nbcloud.inference.edge import server

    model = _model(arguments)
    model.warm_up(1)
    token = ""
    if arguments.token_file is not None:
        try:
            token = arguments.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"{arguments.token_file} can't be read: {error.strerror}.") from None
        if not token:
            raise UsageError(f"{arguments.token_file} is empty.", "Put a token into it.")
    limit = size("--limit", arguments.limit)
    with server.server(model, arguments.host, arguments.port, token=token, limit=limit) as made:
        host, port = made.server_address[:2]
        print(
            f"{model.manifest.title} answers at http://{host!s}:{port}/v2/models/{model.manifest.name}",
            flush=True,
        )
        made.serve_forever(poll_interval=0.2)
    return False


def store(arguments: argparse.Namespace) -> bool:
    """Keep bundles."""
    from nbcloud.inference.edge.store import Store

    kept = Store(arguments.store)
    action = arguments.action
    if action == "add":
        name = kept.add(arguments.bundle)
        if arguments.activate:
            kept.activate(name)
        print(name)
    elif action == "activate":
        print(kept.activate(arguments.version))
    elif action == "rollback":
        print(kept.rollback())
    elif action == "ls":
        state = kept.state()
        rows = [{"version": name, "active": name == state.active} for name in kept.names()]
        for row in rows if not arguments.json else ():
            print(f"{'*' if row['active'] else ' '} {row['version']}")
        if arguments.json:
            print(_json(rows))
    else:
        return _status(kept, as_json=arguments.json)
    return False


def _status(kept: Store, *, as_json: bool) -> bool:
    trouble, signer, milliseconds = "", "", None
    if kept.state().active:
        try:
            model = kept.open()
            signer, milliseconds = model.signer, round(model.self_test() * 1e3, 3)
        except NbcloudError as error:
            trouble = error.message
    state = kept.state()
    facts = {**asdict(state), "signed_by": signer, "milliseconds": milliseconds}
    facts["trouble"] = trouble or state.trouble
    if as_json:
        print(_json(facts))
    else:
        print(f"active: {state.active or 'none'}")
        print(f"before it: {state.previous or 'none'}")
        if milliseconds is not None:
            print(f"self-test: passed, {milliseconds} ms")
        if facts["trouble"]:
            print(f"trouble: {facts['trouble']}")
    return bool(trouble)


def deliver(arguments: argparse.Namespace) -> bool:
    """Send what was queued."""
    from nbcloud.inference.edge.telemetry import Queue

    if not arguments.folder.is_dir():
        raise UsageError(f"There is no folder {arguments.folder}.", "Give that of --telemetry.")
    count = Queue(arguments.folder).deliver(arguments.to, arguments.device, ca=arguments.ca)
    print(f"Delivered: {count}")
    return False


def size(flag: str, text: str) -> int:
    """Bytes of a text like ``200MB``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = found.group(2).upper() if found else None
    if found is None or unit not in _UNITS or not float(found.group(1)):
        raise UsageError(f"{flag} {text!r} is no size.", "Write for example: 200MB")
    return int(float(found.group(1)) * _UNITS[unit])


def _model(arguments: argparse.Namespace) -> EdgeModel:
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads {arguments.threads}: it must be at least 1.")
    if arguments.trusted is not None and not arguments.trusted.is_dir():
        raise UsageError(f"There is no folder {arguments.trusted}.", "Give that of the public keys.")
    if arguments.memory is not None:
        _limit_memory(size("--memory", arguments.memory))
    options = {"threads": arguments.threads, "arena": arguments.memory is None}
    path = Path(arguments.bundle)
    if not path.is_dir():
        return load(path, trusted=arguments.trusted, **options)
    from nbcloud.inference.edge.store import Store

    if arguments.trusted is not None:
        raise UsageError("A store has its own trusted keys.", f"Put them into {path / 'trusted'}.")
    return Store(path).open(say=_say, **options)


def _limit_memory(limit: int) -> None:
    """Let the system refuse more than ``limit`` bytes of data to this process."""
    try:
        import resource
    except ImportError:
        raise UsageError("This system can't limit a process's memory.", "Leave --memory out.") from None
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"The system does not take {limit:,} bytes for --memory: {error}.") from None


def _json(document: Any) -> str:
    return json.dumps(_plain(document), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Lists for arrays, and null for what no JSON can say."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value

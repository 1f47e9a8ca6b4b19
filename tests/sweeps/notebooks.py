"""Every notebook of a folder by papermill's own engine and by nbcloud's: what differs, beyond what must.

``python -m tests.sweeps.notebooks FOLDER`` with papermill's and nbclient's own notebooks (``papermill/tests/notebooks``
is installed with it, ``tests/files`` is in the source of nbclient) takes three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat

from tests.integration.compare import normal

LIMIT = 90
"""Seconds that one engine may take for one notebook: papermill's own now and then waits for ever for a cell that prints
into a widget, on ipykernel 7.4."""

OPTIONS: dict[str, dict[str, Any]] = {
    "complex_parameters": {"parameters": {"msg": "hello"}},
    "no_parameters": {"parameters": {"msg": "hello"}},
    "report_mode_test": {"parameters": {"a": 0}, "report_mode": True},
    "simple_execute": {"parameters": {"msg": "Hello"}},
    "Interrupt": {"execution_timeout": 1, "interrupt_on_timeout": True, "allow_errors": True},
    "Skip Exceptions": {"allow_errors": True},
    "Sleep1s": {"execution_timeout": 20},
}
"""Of the notebooks that papermill's and nbclient's tests run with some, by their name."""


def plain(value: Any) -> str:
    """A value as text, without what differs between any two runs."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
    return normal(text.replace("\\u001b", "\x1b").replace("IPY_MODEL_", "IPY_MODEL "))


def seen(notebook: Mapping[str, Any]) -> dict[str, str]:
    """What a notebook's reader sees, by its place, as text that can be compared."""
    about = notebook["metadata"]
    papermill = about.get("papermill", {})
    found = {
        "language": plain([about.get("language_info"), about.get("kernelspec")]),
        "widgets": _widgets(about.get("widgets", {})),
        "papermill": plain(
            [sorted({*papermill} - {"run"}), papermill.get("exception"), papermill.get("parameters")]
        ),
    }
    for index, cell in enumerate(notebook["cells"]):
        metadata = dict(cell["metadata"])
        execution, told = metadata.pop("execution", None), metadata.pop("papermill", {})
        found[f"cell {index}"] = plain(
            {
                "source": cell["source"],
                "count": cell.get("execution_count"),
                "outputs": cell.get("outputs"),
                "metadata": metadata,
                "timing": execution and sorted(execution),
                "papermill": [sorted(told), told.get("status"), told.get("exception")],
            }
        )
    return found


def _widgets(metadata: Mapping[str, Any]) -> str:
    """Their state: ids differ, and so does the order of what is sorted by them."""
    states = metadata.get("application/vnd.jupyter.widget-state+json", {}).get("state", {}).values()
    return "\n".join(sorted(map(plain, states)))


def differences(stock: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Lines that only one of two has."""
    found = []
    for place in dict.fromkeys([*stock, *ours]):
        lines = difflib.unified_diff(
            stock.get(place, "").splitlines(),
            ours.get(place, "").splitlines(),
            "stock",
            "ours",
            n=0,
            lineterm="",
        )
        found += [f"{place}: {line}" for line in list(lines)[2:] if not line.startswith("@@")]
    return found


def run(source: Path, output: Path, engine: str | None, options: Mapping[str, Any]) -> str:
    """Run a notebook, in this process; what it raised, in a line."""
    import papermill

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            papermill.execute_notebook(
                str(source),
                str(output),
                engine_name=engine,
                kernel_name="python3",
                progress_bar=False,
                **options,
            )
        except Exception as error:
            first = (str(error).strip() or "-").splitlines()[0]
            return f"{type(error).__name__}: {first}"
    return ""


def _run(source: Path, output: Path, engine: str | None, options: Mapping[str, Any]) -> None:
    # A kernel that asks its user something must find nobody, not the terminal of who compares.
    with Path(os.devnull).open() as nobody:
        os.dup2(nobody.fileno(), 0)
    Path(f"{output}.raised").write_text(run(source, output, engine, options))


def outcome(source: Path, folder: Path, engine: str | None) -> dict[str, str]:
    """What comes of a notebook in a process of its own, which is ended when it takes too long."""
    output = folder / f"{engine or 'stock'}.ipynb"
    process = multiprocessing.get_context("spawn").Process(
        target=_run,
        args=(source.absolute(), output, engine, OPTIONS.get(source.stem.removeprefix("papermill-"), {})),
    )
    process.start()
    process.join(LIMIT)
    late = process.is_alive()
    process.kill()
    process.join()
    told = Path(f"{output}.raised")
    found = {"raised": f"nothing in {LIMIT} s" if late else told.read_text() if told.exists() else "died"}
    with warnings.catch_warnings(), contextlib.suppress(OSError, ValueError):
        warnings.simplefilter("ignore")
        found |= seen(nbformat.read(output, 4))
    return {place: text.replace(output.name, "OUT") for place, text in found.items()}


def compared(sources: list[Path]) -> Iterator[tuple[Path, str, list[str]]]:
    """For each notebook what papermill's own engine raised, and what differs."""
    for source in sources:
        with tempfile.TemporaryDirectory() as folder:
            stock, ours = (outcome(source, Path(folder), engine) for engine in (None, "nbcloud"))
        yield source, stock["raised"], differences(stock, ours)


def main() -> None:
    """Compare, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    count = alike = 0
    for source, raised, found in compared(sorted(folder.glob("*.ipynb"))):
        count, alike = count + 1, alike + (not found)
        print(
            f"{'differs' if found else 'alike':8} {source.name}{f'  ({raised[:100]})' if raised else ''}",
            flush=True,
        )
        for line in found[:20]:
            print(f"         {line[:200]}", flush=True)
    print(f"{alike} of {count} are alike.")


if __name__ == "__main__":
    main()

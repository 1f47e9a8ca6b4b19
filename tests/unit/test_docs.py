"""What the documents say can be typed: commands and options exist, code parses, tables are complete."""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from papermill.cli import papermill

from nbcloud import cli
from nbcloud.commands.cell import cell_options, cell_parser
from nbcloud.commands.parser import Parser
from nbcloud.config import Settings, kinds
from nbcloud.config.tables import SIZE, TIME, plain_hint, types_of
from nbcloud.jupyter.lines import LineCommands
from nbcloud.wording import size_text

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]

Block = tuple[str, str, str]
"""Document, language, text."""


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    """Fenced code of the documents."""
    found = []
    for document in DOCUMENTS:
        text = read(document)
        found += [
            (document, *match)
            for match in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        ]
    return [block for block in found if block[1] in languages]


def notebook_parsers() -> dict[str, Parser]:
    return LineCommands(None, lambda: pytest.fail("no cell runs here")).parsers


def shell_parsers() -> dict[str, Parser]:
    return verbs_of(cli.parser())


def verbs_of(parser: Parser) -> dict[str, Parser]:
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


# --- tables ----------------------------------------------------------------------------------------------


def option_table() -> list[str]:
    """The options of ``%%cloud``, as README lists them."""
    rows = []
    for action in cell_parser()._actions:
        if "--help" in action.option_strings:
            continue
        *short, long = sorted(action.option_strings, key=len)
        value = f" {action.metavar}" if action.metavar else ""
        rows.append(f"| {', '.join(f'`{flag}`' for flag in short)} | `{long}{value}` | {action.help} |")
    return ["| | option | what it does |", "| --- | --- | --- |", *rows]


def command_table() -> list[str]:
    """The commands of ``%cloud`` and ``nbcloud``, as README lists them."""
    notebook, shell = notebook_parsers(), shell_parsers()
    rows = []
    for verb in dict.fromkeys([*shell, *notebook]):
        parser = shell.get(verb) or notebook[verb]
        where = "" if verb in shell and verb in notebook else "shell" if verb in shell else "notebook"
        text = (parser.description or "").rstrip(".")
        rows.append(
            f"| `{' '.join([verb, *_positionals(parser)])}` | {text[0].lower()}{text[1:]} | {where} |"
        )
    return ["| command | what it does | only in |", "| --- | --- | --- |", *rows]


def _positionals(parser: Parser) -> list[str]:
    shapes = {None: "{}", "?": "[{}]", "+": "{} …", "*": "[{} …]"}
    words = [action for action in parser._actions if not action.option_strings]
    if actions := parser.verbs():
        return ["\\|".join(actions)]
    return [shapes[word.nargs].format(str(word.metavar or word.dest).upper()) for word in words]


def key_tables() -> list[str]:
    """The keys of profiles, as README lists them."""
    tree = ast.parse(Path(kinds.__file__).read_text(encoding="utf-8"))
    lines = []
    for title, kind in (
        ('`[profiles.NAME]` with `kind = "kubernetes"`', kinds.KubernetesProfile),
        ("`[profiles.NAME.workers]` and each `[profiles.NAME.groups.GROUP]`", kinds.WorkerGroup),
        ("`[profiles.NAME.scheduler]`", kinds.SchedulerPod),
        ("Each of `volumes`", kinds.Volume),
        ("Each of `tolerations`", kinds.Toleration),
        ('`[profiles.NAME]` with `kind = "local"`', kinds.LocalProfile),
        ('`[profiles.NAME]` with `kind = "existing"`', kinds.ExistingProfile),
    ):
        told, hints = _told(tree, kind), types_of(kind)
        lines += [title, "", "| key | value | by default | what it is |", "| --- | --- | --- | --- |"]
        for field in fields(kind):
            if field.name != "kind":
                hint = plain_hint(hints[field.name])
                text, _, otherwise = re.sub("[;.] by default ", "\0", told[field.name], flags=re.I).partition(
                    "\0"
                )
                cells = [f"`{field.name}`", _kind(field, hint), otherwise or _default(field), text]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def _told(tree: ast.Module, kind: type) -> dict[str, str]:
    """What stands below each field of a class."""
    body = next(
        each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == kind.__name__
    ).body
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = ast.literal_eval(text.value).replace("``", "`").rstrip(".")
    return found


def _kind(field: Field[Any], hint: Any) -> str:
    """What a value is."""
    if field.metadata:
        return "size" if field.metadata == SIZE else "time"
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint) if choice)
    if is_dataclass(hint):
        return "table"
    of = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
    if get_origin(hint) in {tuple, dict}:
        inner = get_args(hint)[-1 if get_origin(hint) is dict else 0]
        return f"{'table' if get_origin(hint) is dict else 'list'} of {of.get(inner, 'table')}s"
    return of[hint]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "" if field.default_factory is not MISSING else "none: it is needed"
    if field.default is None or field.default in {"", ()}:
        return ""
    if field.metadata == SIZE:
        return f"`{size_text(field.default).replace('.0 ', '')}`"
    if field.metadata == TIME:
        hours, minutes = field.default / 3600, field.default / 60
        return f"`{hours:g}h`" if hours >= 1 else f"`{minutes:g}min`"
    if isinstance(field.default, str):
        return f"`{field.default}`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else f'{field.default:g}'}`"


@pytest.mark.parametrize("table", [option_table, command_table, key_tables])
def test_the_tables_are_those_of_the_parsers(table: Callable[[], list[str]]) -> None:
    expected = "\n".join(table())
    assert expected in read("README.md"), f"put this into README.md:\n{expected}"


# --- code ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("document", "language", "code"), blocks("python"))
def test_python_parses(document: str, language: str, code: str) -> None:
    magic, _, body = code.partition("\n") if code.startswith("%%") else ("", "", code)
    if magic:
        assert magic.split()[0] == "%%cloud"
        cell_options(magic.removeprefix("%%cloud"))
    ast.parse(TransformerManager().transform_cell(body))
    for line in re.findall(r"^%cloud (.*)", body, re.MULTILINE):
        _check_verb(notebook_parsers(), line)


def _check_verb(parsers: dict[str, Parser], line: str) -> None:
    verb, *words = shlex.split(line, comments=True)
    assert verb in parsers
    parsers[verb].parse_args(words)


COMMANDS = [
    (document, line)
    for document, _, text in blocks("sh")
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_a_command_can_be_typed(document: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    match program:
        case "nbcloud":
            cli.parser().parse_args(words)
        case "make":
            _check_target(words[0])
        case "pip":
            _check_extras(words)
        case "papermill":
            papermill.make_context(program, words)
        case _:
            assert program in {".venv/bin/python", ".venv/bin/pytest", "git"}


INLINE = [
    (document, command)
    for document in DOCUMENTS
    for command in re.findall(r"`((?:nbcloud|%cloud|make) [^`]*)`", read(document))
]


@pytest.mark.parametrize(("document", "command"), INLINE)
def test_a_command_named_in_a_sentence_exists(document: str, command: str) -> None:
    program, *words = shlex.split(command)
    match program:
        case "nbcloud":
            assert words[0] in {*shell_parsers(), "--help"}
        case "%cloud":
            assert words[0] in {*notebook_parsers(), "--help"}
        case "make":
            _check_target(words[0])


def _check_target(name: str) -> None:
    subprocess.run(["make", "--dry-run", name], cwd=ROOT, check=True, capture_output=True)


def _check_extras(words: list[str]) -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    named = {extra for word in words for part in re.findall(r"\[(.*)\]", word) for extra in part.split(",")}
    assert named <= project["optional-dependencies"].keys()


def test_settings_named_exist() -> None:
    known = {f"NBCLOUD_{name.upper()}" for name in Settings.__dataclass_fields__}
    text = "".join(read(document) for document in DOCUMENTS)
    named = set(re.findall(r"NBCLOUD_\w+", text))
    assert {name for name in named if not name.startswith(("NBCLOUD_PROFILES__", "NBCLOUD_TEST_"))} <= known


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "benchmarks/README.md"])
def test_links_lead_to_files_that_are_there(document: str) -> None:
    text = read(document)
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()] == []

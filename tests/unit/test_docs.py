"""What the documents say can be typed: commands and options exist, code parses, tables are complete."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nbcloud import cli
from nbcloud.commands.cell import cell_options, cell_parser
from nbcloud.commands.parser import Parser
from nbcloud.config import Settings
from nbcloud.jupyter.lines import LineCommands

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


@pytest.mark.parametrize("table", [option_table, command_table])
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

"""A mistake is answered with one sentence and the nearest right word; --help is a page, not an exit."""

import pytest

from nbcloud.commands.parser import Help, Parser
from nbcloud.errors import UsageError


@pytest.fixture
def parser():
    top = Parser(prog="tool")
    top.add_argument("--verbose", "-v", action="store_true")
    verbs = top.add_subparsers(dest="verb", parser_class=Parser)
    build = verbs.add_parser("build")
    build.add_argument("--target", choices=["edge", "cloud"])
    build.add_argument("--jobs", type=int)
    build.add_argument("names", nargs="*")
    verbs.add_parser("clean").add_argument("place")
    return top


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("--verbos", "unrecognized arguments: --verbos", "Did you mean --verbose?"),
        ("build --targt edge", "unrecognized arguments: --targt", "Did you mean --target?"),
        ("build --jbs=3", "unrecognized arguments: --jbs=3", "Did you mean --jobs?"),
        ("build --quite-other", "unrecognized arguments", "There are: --help, --target, --jobs."),
        ("build --target egde", "tool build has no 'egde'", "Did you mean 'edge'? There are: edge, cloud."),
        ("biuld", "tool has no 'biuld'", "Did you mean 'build'?"),
        ("build --jobs many", "--jobs 'many': it must be a whole number", "Write for example: --jobs 2"),
        ("build --jobs", "expected one argument", "See: tool build --help"),
        ("clean", "required: PLACE", "See: tool clean --help"),
        ("build 'x", "can't be read", "Close the quotation."),
    ],
)
def test_mistakes_name_the_nearest(parser, line, message, hint):
    with pytest.raises(UsageError) as caught:
        parser.parse_line(line)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_flags_are_not_shortened(parser):
    with pytest.raises(UsageError):
        parser.parse_line("--verb")


def test_quotes_keep_words_together(parser):
    assert parser.parse_line("build 'one two' three").names == ["one two", "three"]


@pytest.mark.parametrize("line", ["--help", "-h", "build --help"])
def test_help_is_a_page(parser, line):
    with pytest.raises(Help, match="usage: tool"):
        parser.parse_line(line)


def test_an_argument_has_one_name(parser):
    page = parser.verbs()["clean"].format_help()
    assert "PLACE" in page
    assert "place" not in page

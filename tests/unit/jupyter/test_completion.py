"""Tab offers flags, commands and names; it starts nothing and never fails."""

import pytest
from IPython.core.completer import provisionalcompleter

from nbcloud.clusters import registry
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store


@pytest.fixture
def complete(shell):
    shell.run_line_magic("load_ext", "nbcloud")

    def completed(line):
        """The lines that Tab offers."""
        with provisionalcompleter():
            offered = list(shell.Completer.completions(line, len(line)))
        return {line[: completion.start] + completion.text for completion in offered}

    yield completed
    shell.run_line_magic("unload_ext", "nbcloud")
    assert registry.entries() == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%%cloud --ti", "%%cloud --timeout"),
        ("%%cloud --name x --dr", "%%cloud --name x --dry-run"),
        ("%cloud att", "%cloud attach"),
        ("%cloud runs --st", "%cloud runs --state"),
        ("%cloud names --js", "%cloud names --json"),
        ("%%cloud -o mod", "%%cloud -o model"),
        ("%%cloud -i data,mod", "%%cloud -i data,model"),
        ("%cloud push mod", "%cloud push model"),
    ],
)
def test_what_is_offered(complete, shell, line, offered):
    shell.user_ns.update(model=1, data=2)
    assert offered in complete(line)


def test_runs_on_record_are_offered(complete):
    with Store() as store:
        run = store.begin(Run(code="1", name="nightly"))
        store.begin(Run(code="1", name="two words"))
    assert f"%cloud logs {run.id}" in complete(f"%cloud logs {run.id[:4]}")
    assert complete("%cloud attach nigh") == {"%cloud attach nightly"}
    assert complete("%cloud cancel two") == set()


def test_names_that_are_ipythons_own_are_not(complete, shell):
    shell.user_ns["mine"] = 1
    offered = complete("%%cloud -i ")
    assert "%%cloud -i mine" in offered
    assert not any("get_ipython" in line or " _" in line for line in offered)


@pytest.mark.parametrize(
    "line", ["%cloud nosuch --x", "%cloud logs ", "%%cloud -s ", "%%cloud -c ", "%cloud 'a"]
)
def test_odd_lines_offer_nothing_odd(complete, line):
    complete(line)

"""Tab offers flags, commands and names; it starts nothing and never fails."""

import pytest
from IPython.core.completer import provisionalcompleter

from nbcloud.clusters import registry
from nbcloud.models.registry import Registry
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
from tests.bundles import onnx_file

PROFILES = """
[profiles.gpu]
kind = "kubernetes"
groups = { cpu = {} }
[profiles.big]
kind = "local"
[profiles.bad]
kind = "locl"
"""


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
        ("%cloud runs --state fa", "%cloud runs --state failed"),
        ("%cloud names --js", "%cloud names --json"),
        ("%%cloud -o mod", "%%cloud -o model"),
        ("%%cloud -i data,mod", "%%cloud -i data,model"),
        ("%%cloud --sweep mod", "%%cloud --sweep model="),
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


@pytest.mark.parametrize("verb", ["up", "down", "doctor", "sync", "cost", "status", "scale 2 -c", "%-c"])
def test_clusters_and_profiles_are_offered(complete, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nbcloud.toml").write_text(PROFILES)
    line = "%%cloud -c " if verb == "%-c" else f"%cloud {verb} "
    assert complete(line) == {f"{line}gpu", f"{line}big"}
    assert complete(f"{line}g") == {f"{line}gpu"}


def test_models_versions_aliases_and_variants_are_offered(complete, shell, tmp_path, monkeypatch):
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    path = onnx_file(tmp_path / "m.onnx")
    models = Registry()
    for name in ("digits", "digits", "flowers"):
        models.add(path, name)
    models.set_alias("digits/1", "champion")
    models.add_variant("digits/1", "int8", path, {})
    assert "%cloud models rollback" in complete("%cloud models ro")
    assert complete("%cloud models show --js") == {"%cloud models show --json"}
    all_of_digits = {"", "@champion", "/2", "/1", "/1#int8"}
    assert complete("%cloud models show d") == {f"%cloud models show digits{each}" for each in all_of_digits}
    assert complete("%cloud models show digits@") == {"%cloud models show digits@champion"}
    assert complete("%cloud models diff digits/1 f") == {
        f"%cloud models diff digits/1 flowers{each}" for each in ("", "/1")
    }
    assert complete("%cloud models ls ") == {"%cloud models ls digits", "%cloud models ls flowers"}
    assert complete("%cloud models rollback digits ") == {"%cloud models rollback digits champion"}
    assert complete("%cloud models stage digits/1 prod") == {"%cloud models stage digits/1 production"}
    assert complete("%cloud models nothing ") == complete("%cloud models show digits ") == set()
    shell.user_ns.update(model=1, images=2)
    assert "%cloud export model images" in complete("%cloud export model im")
    assert complete("%cloud export model images fl") == {"%cloud export model images flowers"}


def test_a_registry_that_does_not_answer_offers_nothing(complete, monkeypatch):
    monkeypatch.setenv("NBCLOUD_REGISTRY", "nothing://there")
    assert complete("%cloud models show ") == set()


def test_groups_are_offered(complete, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nbcloud.toml").write_text(PROFILES)
    line = "%cloud scale 2 -g "
    assert complete(line) == {f"{line}default", f"{line}cpu"}
    assert complete("%cloud scale 2 -c big -g ") == set()
    assert complete("%cloud scale 2 -c gpu -g c") == {"%cloud scale 2 -c gpu -g cpu"}


@pytest.mark.parametrize(
    "line", ["%cloud scale ", "%cloud up --memory ", "%cloud nosuch ", "%cloud status al", "%%cloud -c al"]
)
def test_nothing_of_ipythons_falls_through(complete, line):
    assert complete(line) == set()


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

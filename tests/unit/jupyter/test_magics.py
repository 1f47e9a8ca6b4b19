"""%cloud and %%cloud in a real shell: what is wrong is said in a sentence before anything is started."""

import pytest
from IPython.utils.capture import capture_output

import nbcloud
from nbcloud.clusters import registry
from nbcloud.runs.store import Store


@pytest.fixture
def notebook(shell):
    shell.run_line_magic("load_ext", "nbcloud")
    yield shell
    shell.run_line_magic("unload_ext", "nbcloud")


def run(shell, code):
    with capture_output() as captured:
        result = shell.run_cell(code)
    return captured, result


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%%cloud --timout 5\n1", "Did you mean --timeout?"),
        ("%%cloud --memory lots\n1", "--memory: 'lots' is not a size"),
        ("%%cloud -o a-b\n1", "not the name of a variable"),
        ("%%cloud --name 'a\n1", "Close the quotation"),
        ("%cloud stats", "Did you mean 'status'?"),
        ("%cloud --fast", "unrecognized"),
        ("%cloud reset one -s other", "ends one session: 'one' or 'other'?"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_right_word(notebook, code, words):
    captured, result = run(notebook, code)
    text = captured.stdout + captured.stderr
    assert words in text
    assert text.count("\n") <= 2
    assert not result.success
    assert registry.entries() == []


def test_an_empty_cell_runs_nothing_and_says_nothing(notebook):
    captured, result = run(notebook, "%%cloud\n\n")
    assert result.success
    assert captured.stdout + captured.stderr == ""
    assert registry.entries() == []


def test_the_manual_page(notebook):
    for code in ("%%cloud --help\n1", "%%cloud -h\n1"):
        captured, result = run(notebook, code)
        assert "--dry-run" in captured.stdout
        assert result.success
    assert "--dry-run" in notebook.find_cell_magic("cloud").__doc__
    captured, _ = run(notebook, "%cloud --help")
    assert "attach" in captured.stdout


def test_a_dry_run_says_what_would_travel_and_starts_nothing(notebook):
    run(notebook, "import math\nnumbers = list(range(1000))")
    captured, result = run(notebook, "%%cloud --dry-run\nprint(sum(numbers), math.pi)")
    assert result.success, captured.stderr
    said = captured.outputs[0].data["text/plain"] if captured.outputs else captured.stdout
    assert "numbers" in said
    assert "travels" in said
    assert "Nothing was sent" in said
    assert registry.entries() == []


def test_variables_of_the_line_are_not_expanded(notebook):
    notebook.user_ns["timeout"] = "1s"
    captured, _ = run(notebook, "%%cloud --timeout {timeout}\n1")
    assert "'{timeout}'" in captured.stdout + captured.stderr


def test_unloading_takes_all_away(notebook):
    notebook.run_line_magic("unload_ext", "nbcloud")
    assert notebook.find_cell_magic("cloud") is None
    assert notebook.find_line_magic("cloud") is None
    notebook.run_line_magic("load_ext", "nbcloud")


def test_runs_without_any_and_without_a_cluster(notebook):
    captured, result = run(notebook, "answer = %cloud runs --json\nls = %cloud ls --json")
    assert result.success, captured.stderr
    assert notebook.user_ns["answer"] == []
    assert notebook.user_ns["ls"] == []


def test_a_run_that_is_not_there(notebook):
    captured, result = run(notebook, "%cloud logs nosuchrun")
    assert not result.success
    assert "nosuchrun" in captured.stdout + captured.stderr


@pytest.mark.parametrize("secret", [None, "hunter2-and-more"])
def test_a_local_cell_has_the_same_record(notebook, monkeypatch, secret):
    if secret:
        monkeypatch.setenv("MY_TOKEN", secret)
    captured, result = run(notebook, f"%%cloud --local --name here\nprint('value', {secret!r})\nx = 6 * 7\nx")
    assert result.success, captured.stderr
    assert notebook.user_ns["x"] == 42
    notebook.magics_manager.registry["CloudMagics"].runner.notebook.recorder.flush()
    with Store() as store:
        (found,) = store.search(name="here")
        text = store.text(found.id)
        assert found.state == "done"
    assert "value" in captured.stdout
    assert "value" in text
    assert not secret or secret not in text


def test_a_local_cell_that_fails(notebook):
    captured, result = run(notebook, "%%cloud --local --name bad\nprint('before')\n1/0")
    assert not result.success
    assert "ZeroDivisionError" in captured.stdout + captured.stderr
    notebook.magics_manager.registry["CloudMagics"].runner.notebook.recorder.flush()
    with Store() as store:
        (found,) = store.search(name="bad")
        assert found.state == "failed"
        assert found.error["ename"] == "ZeroDivisionError"
        assert "before" in store.text(found.id)


def test_the_version_is_there():
    assert nbcloud.__version__

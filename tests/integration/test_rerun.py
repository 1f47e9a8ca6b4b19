"""What is on record runs again, and what differs in its outcome is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import nbcloud
from nbcloud.cli import main
from nbcloud.dispatch.links import close_links
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.runs.provenance import CLUSTER, DIFF, PACKAGES, SOURCE, kept
from nbcloud.runs.record import Run
from nbcloud.workflows.notebook.outcome import outcome
from nbcloud.workflows.notebook.run import run_notebook

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::nbformat.warnings.MissingIDFieldWarning"
    ),
]

CODE = """
import nbcloud
print("rate", rate, object())
nbcloud.log_metric("loss", rate * 2)
nbcloud.record("best", [rate])
"""


@pytest.fixture(autouse=True)
def _unlinked() -> object:
    yield
    close_links()


def write(path: Path, code: str = CODE) -> Path:
    defaults = nbformat.v4.new_code_cell("rate = 0.1", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_markdown_cell("# Training"), defaults, nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": kernel}, cells=cells), path)
    return path


def shell(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nbcloud", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def test_a_notebook_runs_again_as_it_was_though_its_file_is_gone(tmp_path: Path):
    source = write(tmp_path / "train.ipynb")
    first = run_notebook(str(source), str(tmp_path / "out.ipynb"), {"rate": 0.5}, progress_bar=False).run
    source.unlink()
    done = nbcloud.rerun(first, output=tmp_path / "again.ipynb")
    assert done.same
    assert done.differences == []
    assert (done.after.name, done.after.tags["rerun_of"]) == ("train", first)
    assert done.after.extra["parameters"] == {"rate": 0.5}
    other = nbcloud.rerun(first, {"rate": 0.25}, tmp_path / "other.ipynb")
    assert not other.same
    found = {(each.section, each.name): (each.before, each.after) for each in other.differences}
    assert found["parameters", "rate"] == (0.5, 0.25)
    assert found["metrics", "loss"] == (1.0, 0.5)
    assert found["records", "best"] == ([0.5], [0.25])
    assert [line for each in other.differences for line in each.lines] == [
        "@@ -1 +1 @@",
        "-rate 0.5 <object object at 0x…>",
        "+rate 0.25 <object object at 0x…>",
    ]
    with pytest.raises(UsageError, match="Did you mean 'rate'"):
        nbcloud.rerun(first, {"ratte": 1.0}, tmp_path / "none.ipynb")
    assert not (tmp_path / "none.ipynb").exists()


def test_a_parameter_that_was_a_secret_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVICE_TOKEN", "hunter2-and-more-7")
    source = write(tmp_path / "train.ipynb", "print(len(str(rate)))")
    secret = {"rate": "hunter2-and-more-7"}
    first = run_notebook(str(source), str(tmp_path / "out.ipynb"), secret, progress_bar=False).run
    with pytest.raises(UsageError, match=r"'rate' of run \w+ was a secret.* Give it again: -p rate VALUE"):
        nbcloud.rerun(first, output=tmp_path / "again.ipynb")
    assert nbcloud.rerun(first, secret, tmp_path / "again.ipynb", loose=True).same


def test_code_that_holds_a_secret_is_not_run_with_its_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVICE_TOKEN", "hunter2-and-more-7")
    source = write(tmp_path / "train.ipynb", "print(len('hunter2-and-more-7'))")
    first = run_notebook(str(source), str(tmp_path / "out.ipynb"), progress_bar=False).run
    with pytest.raises(UsageError, match="There is a secret in the code of run"):
        nbcloud.rerun(first, output=tmp_path / "again.ipynb")
    assert not (tmp_path / "again.ipynb").exists()


def test_in_a_shell_the_exit_code_says_whether_the_outcome_is_the_same(tmp_path: Path):
    once = write(tmp_path / "once.ipynb", f"{CODE}\nif rate > 1: raise ValueError('too much')")
    first = run_notebook(str(once), str(tmp_path / "out.ipynb"), progress_bar=False).run
    same = shell("rerun", first, cwd=tmp_path)
    assert (same.returncode, "The outcome is the same" in same.stdout) == (0, True), same.stderr
    assert (tmp_path / f"once-rerun-{first}.ipynb").exists()
    other = shell("rerun", first, "-p", "rate", "0.2", "-o", "other.ipynb", "--json", cwd=tmp_path)
    assert other.returncode == 3, other.stderr
    said = json.loads(other.stdout)
    assert said["same"] is False
    assert {"parameters", "metrics", "outputs"} <= {each["section"] for each in said["differences"]}
    itself = shell("diff", "once", "once", cwd=tmp_path)
    assert (itself.returncode, "Both are run" in itself.stderr) == (2, True), itself.stdout
    failed = shell("rerun", first, "-p", "rate", "2", "-o", "failed.ipynb", cwd=tmp_path)
    assert failed.returncode == 1
    assert "state: error" in failed.stdout
    assert "ValueError: too much" in failed.stdout
    told = shell("diff", first, said["run"], cwd=tmp_path)
    assert "metrics: loss" in told.stdout
    (parameter,) = (line.split() for line in told.stdout.splitlines() if line.startswith("parameters: rate"))
    assert parameter[-2:] == ["0.1", "0.2"], "the default that the first one had"
    assert f"--- outputs of {first}" in told.stdout
    assert shell("rerun", first, "-o", "twin.ipynb", cwd=tmp_path).returncode == 0
    twins = [outcome(tmp_path / name).run for name in (f"once-rerun-{first}.ipynb", "twin.ipynb")]
    assert "are alike" in shell("diff", *twins, cwd=tmp_path).stdout


def test_a_record_says_with_which_packages_and_changes_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("API_TOKEN", "tk-93f7a2c81d40")
    for words in (["init", "-q"], ["add", "code.py"], ["commit", "-qm", "one"]):
        (tmp_path / "code.py").write_text("x = 1\n")
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True)
    (tmp_path / "code.py").write_text("x = 2  # tk-93f7a2c81d40\n")
    monkeypatch.chdir(tmp_path)
    first = run_notebook(str(write(tmp_path / "in.ipynb")), "out.ipynb", progress_bar=False).run
    with open_store() as store:
        packages, diff, source = (kept(store, first, name) for name in (PACKAGES, DIFF, SOURCE))
        assert store.get(first).provenance.keys() == {SOURCE, DIFF, PACKAGES, CLUSTER}
        cluster = json.loads(kept(store, first, CLUSTER))
        assert set(store.get(first).provenance.values()) <= store.contents()  # which gc keeps
    assert packages.startswith("# Python 3.")
    assert cluster["kind"] == "local"
    assert cluster["workers"] > 0
    assert not cluster.keys() & {"tls", "directory", "pid"}
    assert f"\nnbformat=={nbformat.__version__}\n" in packages
    assert "-x = 1" in diff
    assert "+x = 2" in diff
    assert "tk-93f7a2c81d40" not in diff
    assert [cell["cell_type"] for cell in json.loads(source)["cells"]] == ["markdown", "code", "code"]


def test_a_cell_runs_again_only_if_its_record_has_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with open_store() as store:
        alone = store.begin(Run(code="print(6 * 7)", name="answer"))
        needy = store.begin(Run(code="print(data.sum())"))
        gang = store.begin(Run(code="1", resources={"workers": 2}))
        for run in (alone, needy, gang):
            store.append(
                run.id,
                b'{"n":1,"time":1.0,"msg_type":"stream","content":{"name":"stdout","text":"42\\n"},"metadata":{}}\n',
            )
            store.update(run.id, state="done")
    assert nbcloud.rerun("answer", output=tmp_path / "again.ipynb").same
    with pytest.raises(UsageError, match="needs data, and only their hashes"):
        nbcloud.rerun(needy.id)
    with pytest.raises(UsageError, match="a gang of sessions"):
        nbcloud.rerun(gang.id)
    assert main(["diff", alone.id, needy.id]) == 0
    assert "+print(data.sum())" in capsys.readouterr().out

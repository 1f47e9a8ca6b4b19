"""nbcloud in a shell: answers, --json and exit codes."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nbcloud import __version__, cli
from nbcloud.clusters import registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.commands import verbs
from nbcloud.errors import ClusterError
from nbcloud.jupyter.lines import LineCommands
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store


@pytest.fixture
def run_on_record():
    with Store() as store:
        run = store.begin(Run(name="mine", code="print('hello')"))
        line = {"n": 1, "time": 1.0, "msg_type": "stream", "content": {"name": "stdout", "text": "hello\n"}}
        store.append(run.id, json.dumps({**line, "metadata": {}}).encode() + b"\n")
        store.finish(run.changed(state="done", finished=run.created + 1))
        return run


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 0, "usage: nbcloud"),
        (["--help"], 0, "attach"),
        (["runs", "--help"], 0, "--state"),
        (["ls"], 0, "No cluster is up. Type: nbcloud up\n"),
        (["runs"], 0, "No run is on record"),
        (["runs", "nosuchtext"], 0, "No run on record is like that."),
        (["runs", "-n", "0"], 2, "-n 0: it must be at least 1."),
        (["runs", "-n", "-1"], 2, "-n -1: it must be at least 1."),
        (["nosuch"], 2, "There are: up, down"),
        (["names"], 2, "is about the variables of a notebook. Type there: %cloud names"),
        (["reset", "s1"], 2, "is about the variables of a notebook. Type there: %cloud reset"),
        (["up", "--memory", "1PB"], 2, "--memory: '1PB' is not a size. Write for example"),
        (["up", "--idle-timeout", "foo"], 2, "--idle-timeout: 'foo' is not a length of time. Write"),
        (["up", "tls://127.0.0.1:1"], 2, "--tls-ca FILE --tls-cert FILE --tls-key FILE"),
        (["down", "nope"], 1, "No cluster named 'nope' is up; none is up. Nothing was stopped."),
        (["stauts"], 2, "Did you mean 'status'?"),
        (["runs", "--stat", "done"], 2, "Did you mean --state?"),
        (["runs", "--state", "don"], 2, "Did you mean 'done'?"),
        (["up", "tcp://127.0.0.1:1", "--tls-ca", "x"], 2, "belong together"),
        (["status"], 1, "none is up. Type: nbcloud up local\n"),
        (["status", "lab"], 1, "Type: nbcloud up lab\n"),
        (["logs", "nosuchrun"], 1, "nosuchrun"),
        (["cancel", "nosuchrun"], 1, "nosuchrun"),
        (["down", "--all"], 0, "No cluster is up"),
    ],
)
def test_exit_codes_and_sentences(capsys, words, code, said):
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    assert said in (out if code == 0 else err)
    assert (err if code == 0 else out) == ""
    assert "Traceback" not in err


def test_what_only_a_notebook_has_is_known():
    notebook = LineCommands(None, lambda: pytest.fail("no cell runs here")).parsers
    assert set(cli.NOTEBOOK_ONLY) == notebook.keys() - cli.parser().verbs().keys()


def test_logs_of_a_run_that_has_shown_nothing_say_so(capsys):
    with Store() as store:
        run = store.begin(Run(code="1", extra={"client": "elsewhere"}))
        store.finish(run.changed(state="done"))
    assert cli.main(["logs", run.id]) == 0
    assert capsys.readouterr().err == f"nbcloud: Run {run.id} (done) has shown nothing.\n"


def test_commands_are_named_as_a_shell_has_them(capsys, monkeypatch):
    def fail():
        raise ClusterError("Too much %%cloud.", "%cloud down, %cloud up lab, or in a notebook: %cloud reset")

    monkeypatch.setattr(registry, "entries", fail)
    assert cli.main(["ls"]) == 1
    hint = "nbcloud down, nbcloud up lab, or in a notebook: %cloud reset"
    assert capsys.readouterr().err == f"nbcloud: Too much %%cloud. {hint}\n"


def test_options_that_a_cluster_which_is_up_does_not_follow_are_told(monkeypatch, capsys):
    info = ClusterInfo("local", "1" * 8, "local", "tls://h:1", workers=2, threads=1, memory=2**30)
    registry.put(info)
    monkeypatch.setattr(verbs.clusters, "up", lambda name, **options: info)
    monkeypatch.setattr(verbs, "link_to", lambda info: SimpleNamespace(skew=[]))
    monkeypatch.setattr(registry, "entries", lambda: [info])
    for words, said in (
        ([], ""),
        (["--workers", "2", "--memory", "1GiB"], ""),
        (["--workers", "4"], "To have 4 workers: nbcloud scale 4\n"),
        (
            ["--memory", "2GiB", "--idle-timeout", "2h"],
            "--memory, --idle-timeout can't be changed while it is up; to start anew: nbcloud down local\n",
        ),
    ):
        assert cli.main(["up", *words]) == 0
        assert capsys.readouterr().out.partition("(was up already).\n")[2] == said


def test_down_of_a_scheduler_that_is_not_ours_only_forgets_it(capsys):
    registry.put(ClusterInfo("lab", "11111111", "existing", "tcp://lab.example:8786"))
    assert cli.main(["down", "lab"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Forgotten: 'lab'. Its scheduler at tcp://lab.example:8786 ")
    assert said.endswith("goes on.\n")
    assert registry.entries() == []


def test_json_is_json(capsys, run_on_record):
    assert cli.main(["runs", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["id"] == run_on_record.id
    assert cli.main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_logs_by_the_beginning_of_an_id(capsys, run_on_record):
    assert cli.main(["logs", run_on_record.id[:-2]]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_attach_to_a_run_of_a_cluster_that_is_gone_prints_the_record(capsys, run_on_record):
    assert cli.main(["attach", run_on_record.id]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_cancel_of_what_has_ended(capsys, run_on_record):
    assert cli.main(["cancel", run_on_record.id]) == 0
    assert "is done already" in capsys.readouterr().out


@pytest.mark.usefixtures("run_on_record")
def test_a_reader_that_has_seen_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nbcloud.cli", "runs"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"nbcloud {__version__}\n"

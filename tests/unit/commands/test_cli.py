"""nbcloud in a shell: answers, --json and exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from nbcloud import __version__, cli
from nbcloud.clusters import connect, existing, local, registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.kubernetes.findings import Finding
from nbcloud.commands import cost, runs, verbs
from nbcloud.commands import kubernetes as doctor
from nbcloud.commands.answers import Answer
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
        (["runs", "-n", "x"], 2, "-n 'x': it must be a whole number. Write for example: -n 2"),
        (
            ["scale", "x"],
            2,
            "WORKERS 'x': it must be a whole number, or auto. Write for example: nbcloud scale 2",
        ),
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


def test_a_profile_whose_kubernetes_can_not_be_asked_is_listed_all_the_same(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nosuch"))
    (tmp_path / "nbcloud.toml").write_text('[profiles.gpu]\nkind = "kubernetes"\n')
    assert cli.main(["ls"]) == 0
    out = capsys.readouterr().out
    assert "?" in out.splitlines()[1]
    assert "Whether 'gpu' is up is not known: No Kubernetes is known here" in out
    assert cli.main(["ls", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["?"]


PROFILES = """
[profiles.gpu]
kind = "kubernetes"
namespace = "ml"
workers = { cpus = 500, memory = "4TiB" }

[profiles.gpu.groups.small]
cpus = 1
minimum = 0
maximum = 3

[profiles.lab]
kind = "existing"
address = "tcp://127.0.0.1:1"

[profiles.big]
kind = "local"
workers = 3
memory = "2GiB"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(local, "up", lambda name, **options: pytest.fail(f"starts {name}"))
    file = tmp_path / "nbcloud.toml"
    file.write_text(PROFILES)
    return file


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["up", "gpx"],
            "There is no profile 'gpx'. Did you mean gpu? For a local cluster of that name, say how large: "
            "nbcloud up gpx --workers 2",
        ),
        (["status", "gpx"], "none is up. Profiles that are not up: gpu, lab, big. Did you mean gpu?"),
        (["status", "quite-other"], "Profiles that are not up: gpu, lab, big. Type: nbcloud up quite-other"),
        (["status", "big"], "Profiles that are not up: gpu, lab. Type: nbcloud up big"),
        (["scale", "2", "-c", "gpx"], "Did you mean gpu?"),
        (["up", "gpx", "--dry-run"], "There is no profile 'gpx', and --dry-run is for"),
        (["up", "gpx", "--dry-run"], "Did you mean gpu?"),
        (["up", "big", "--dry-run"], "'big' is of kind local. See: nbcloud profiles"),
        (["up", "gpu", "--dry-run", "--threads", "2"], "--threads is not for clusters on Kubernetes."),
        (["doctor", "gpx"], "There is neither a profile nor a cluster 'gpx'. Did you mean gpu?"),
    ],
)
def test_what_is_misspelled_starts_nothing_and_names_the_nearest(capsys, words, said):
    assert cli.main(words) != 0
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_a_local_cluster_may_have_a_name_near_a_profiles(monkeypatch, capsys):
    asked = []
    info = ClusterInfo("gpx", "1" * 8, "local", "tls://h:1", workers=2, threads=1, memory=2**30)
    monkeypatch.setattr(local, "up", lambda name, **options: asked.append((name, options["workers"])) or info)
    monkeypatch.setattr(verbs, "link_to", lambda info, progress: SimpleNamespace(skew=[]))
    assert cli.main(["up", "gpx", "--workers", "2"]) == 0
    assert asked == [("gpx", 2)]


@pytest.mark.usefixtures("project")
def test_a_dry_run_honours_its_options(capsys):
    assert cli.main(["up", "gpu", "--dry-run", "--workers", "7", "--idle-timeout", "90min"]) == 0
    said = capsys.readouterr().out
    assert "replicas: 7" in said
    assert "5400" in said


def test_profiles_are_listed_with_every_mistake(project, capsys, monkeypatch):
    assert cli.main(["profiles"]) == 0
    said = capsys.readouterr().out
    assert "1 × 500 CPUs, 4.0 TiB; small: 0 to 3 × 1 CPU, 4.0 GiB" in said
    monkeypatch.setenv("NBCLOUD_PROFILES__OTHER__IMAGE", "x")
    project.write_text(
        f"{PROFILES}[profile.x]\n[profiles.a]\nkind='locl'\n[profiles.b]\nkind='local'\nmemory=4\n"
    )
    assert cli.main(["profiles"]) == 1
    said = capsys.readouterr().out
    assert "gpu   kubernetes" in said
    for mistake in (
        "unknown key 'profile'. Did you mean profiles?",
        "profiles.a has a kind 'locl' that there is not. Did you mean local?",
        "profiles.b: memory is 4 bytes",
        "NBCLOUD_PROFILES__OTHER__IMAGE names no profile",
    ):
        assert mistake in said


def test_a_bad_profile_is_no_matter_to_others(project, capsys):
    project.write_text(f"{PROFILES}[profiles.a]\nkind='locl'\n")
    for words in (["runs"], ["up", "gpu", "--dry-run"], ["doctor", "big"]):
        assert cli.main(words) == 0, capsys.readouterr()
    capsys.readouterr()
    assert cli.main(["up", "a"]) == 1
    assert "Did you mean local?" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_the_only_other_cluster_is_meant(monkeypatch, capsys):
    office = ClusterInfo("office", "1" * 8, "existing", "tcp://h:8786")
    registry.put(office)
    monkeypatch.setattr(existing, "alive", lambda info: True)
    said = "The default cluster, 'local', is not up; this is 'office'."
    assert connect.meant(None) == (office, said)
    assert connect.meant("office") == (office, "")
    monkeypatch.setattr(cost.wire, "ask", lambda *args, **kwargs: {"address": "tcp://h:8786", "workers": {}})
    assert cli.main(["cost"]) == 0
    assert said in capsys.readouterr().out
    assert cli.main(["down"]) == 1
    assert (
        "there are: office. Nothing was stopped. To stop that: nbcloud down office" in capsys.readouterr().err
    )
    registry.put(ClusterInfo("other", "2" * 8, "existing", "tcp://h:8787"))
    assert cli.main(["cost"]) == 1
    assert "there are: office, other." in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_the_doctor_looks_at_profiles_of_every_kind(capsys):
    assert cli.main(["doctor", "lab"]) == 1
    said = capsys.readouterr().out
    assert "Mend first: scheduler: Nothing listens at tcp://127.0.0.1:1. Is the scheduler up" in said
    assert registry.entries() == []
    assert cli.main(["doctor", "big"]) == 0
    said = capsys.readouterr().out
    assert "it would be 3 workers, 2.0 GiB each, on this machine" in said
    assert "nbcloud up big" in said


def test_findings_are_sentences_with_one_full_stop():
    found = [
        Finding("Kubernetes", "bad", "The kubeconfig has no context 'prod'.", "See: kubectl"),
        Finding("kopf", "unknown", "you may not look"),
    ]
    answer = doctor._answer(found)
    assert answer.text == "Mend first: Kubernetes: The kubeconfig has no context 'prod'. See: kubectl"
    assert answer.rows[1][0] == "kopf (the framework of the operator)"


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_phases_are_told_once_in_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with cli._Told() as told:
        for phase in ("a", "a", "b", "b", "a"):
            told.tell(phase)
    assert sys.stderr.getvalue() == "nbcloud: a …\nnbcloud: b …\nnbcloud: a …\n"


def test_phases_are_told_elsewhere_when_it_takes_long(monkeypatch, capsys, wait_until):
    with cli._Told() as told:
        told.tell("quick")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli, "_PATIENCE", 0.05)
    with cli._Told() as told:
        told.tell("before")
        told.tell("waiting")
        wait_until(lambda: told._shown, what="the phase told")
        told.tell("waiting")
        told.tell("done")
    assert capsys.readouterr().err == "nbcloud: waiting …\nnbcloud: done …\n"


def test_rows_name_commands_as_a_shell_has_them(monkeypatch, capsys):
    answer = Answer("", ["name", "next"], [["%cloud up x", "Type: %cloud up x"]])
    monkeypatch.setattr(runs, "list_runs", lambda arguments, progress: answer)
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "%cloud up x  Type: nbcloud up x"


_UP = """
import sys, time
from nbcloud import cli
from nbcloud.clusters import local

def up(name, progress, **options):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.3)
        print("taken back", flush=True)

local.up = up
sys.exit(cli.main(["up", "local"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_asked_to_end_takes_back_what_it_began(other_process, number):
    process = other_process(_UP)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    if number != signal.SIGINT:  # a second one does not hinder
        time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "taken back\n"
    assert process.wait(timeout=60) == 128 + number


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
    monkeypatch.setattr(verbs, "link_to", lambda info, progress: SimpleNamespace(skew=[]))
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


def test_python_runs_it_as_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "nbcloud", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip()


def test_ctrl_c_while_it_is_imported_is_quiet(tmp_path):
    """Interrupted by itself, in the middle of the import of its command line."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    run = subprocess.run(
        [sys.executable, "-m", "nbcloud", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


INTERRUPTED = """
import signal
import sys


class Interrupt:
    def find_spec(self, name, *_):
        if name == "nbcloud.commands.verbs":
            signal.raise_signal(signal.SIGINT)


sys.meta_path.insert(0, Interrupt())
"""

"""The command line on a device: what it answers, and the one sentence about what is wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from nbcloud.inference.edge.__main__ import main
from tests.bundles import SAMPLE, make


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path)


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0, itself: str = "") -> str:
    """What a command prints; of one that fails, the sentence."""
    assert main([str(word) for word in words], itself) == code
    out, err = capsys.readouterr()
    if code:
        assert err.startswith("nbcloud: ") or not err
        assert err.count("\n") <= 1
    return out if not err else err.removeprefix("nbcloud: ").rstrip()


def answers(capsys: pytest.CaptureFixture[str], bundle: Path, source: Path) -> list[str]:
    found: list[str] = json.loads(told(capsys, "run", bundle, "-i", source, "--json"))["answers"]["label"]
    return found


def test_every_kind_of_file_gives_the_same(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", SAMPLE)
    np.savez(tmp_path / "x.npz", x=SAMPLE)
    np.savetxt(tmp_path / "x.csv", SAMPLE, delimiter=",")
    np.savetxt(tmp_path / "x.txt", SAMPLE)
    (tmp_path / "x.json").write_text(json.dumps({"x": SAMPLE.tolist()}))
    expected = answers(capsys, bundle, tmp_path / "x.npy")
    assert len(expected) == len(SAMPLE)
    for kind in ("npz", "csv", "txt", "json"):
        assert answers(capsys, bundle, tmp_path / f"x.{kind}") == expected, kind


def test_a_person_sees_answers_and_a_bundle_means_itself(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", SAMPLE[:1])
    printed = told(capsys, "--input", tmp_path / "x.npy", itself=str(bundle))
    assert printed.splitlines()[0].startswith("probabilities: [[")
    assert printed.splitlines()[1].startswith("label: ['")
    assert "answers as it should" in told(capsys, "verify", itself=str(bundle))
    assert "takes      x: float32[batch, 4]" in told(capsys, "info", bundle)
    assert json.loads(told(capsys, "info", bundle, "--json"))["target"]["onnxruntime"] == "1.12"


def test_one_wrong_file_of_a_folder_does_not_end_the_others(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "a.npy", SAMPLE)
    np.save(folder / "b.npy", SAMPLE[:, :2])
    (folder / "c.npy").write_bytes(b"no array")
    np.save(folder / "d.npy", SAMPLE)
    lines = [json.loads(line) for line in told(capsys, "run", bundle, "-i", folder, code=1).splitlines()]
    assert [line["input"] for line in lines] == ["a.npy", "b.npy", "c.npy", "d.npy"]
    assert lines[0]["answers"] == lines[3]["answers"]
    assert lines[1]["error"].startswith("The input 'x' has the shape [6, 2].")
    assert "c.npy is not what its name says" in lines[2]["error"]


def test_each_line_is_answered_at_once(bundle: Path) -> None:
    command = [sys.executable, "-m", "nbcloud.inference.edge", "run", str(bundle), "-i", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, key in (
            ("[[1, 2, 3, 4]]", "answers"),
            ("[[1, 2", "error"),
            ('{"x": [[1, 2, 3, 4]]}', "answers"),
        ):
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            assert key in json.loads(process.stdout.readline())
        process.stdin.close()
        assert process.wait() == 1


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-i", "x.bin"], 2, "x.bin is of a kind that can't be read here. There are: .npy .npz .csv"),
        (["-i", "none.npy"], 2, "none.npy can't be read: No such file or directory."),
        (["-i", "empty"], 2, "empty has no file that can be read."),
        (["-i", "x.npy", "--memory", "lots"], 2, "--memory 'lots' is no size. Write for example: 200MB"),
        (["-i", "x.npy", "--threads", "0"], 2, "--threads 0: it must be at least 1."),
        (["-i", "x.npy", "--trusted", "empty"], 1, "flowers.nbundle is not signed, and must be."),
        ([], 2, "run: the following arguments are required: -i/--input."),
        (["-i", "x.npy", "--fast"], 2, "unrecognized arguments: --fast."),
        (["-i", "pickle.npy"], 2, "pickle.npy is not what its name says"),
        (["-i", "ragged.csv"], 2, "ragged.csv has 3 values in row 2, and 4 in the first."),
        (["-i", "words.csv"], 1, "The column 'd' has 'x', which is no number. Fill or drop such rows."),
        (["-i", "deep.json"], 2, "This is no JSON"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_sentence(
    bundle: Path, words: list[str], code: int, sentence: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(bundle.parent)
    Path("empty").mkdir()
    np.save("x.npy", SAMPLE)
    np.save("pickle.npy", np.array([{"a": 1}], dtype=object))
    Path("ragged.csv").write_text("1,2,3,4\n1,2,3\n")
    Path("words.csv").write_text("a,b,c,d\n1,2,3,x\n")
    Path("deep.json").write_text("[" * 100_000)
    assert sentence in told(capsys, "run", bundle, *words, code=code)


def test_images_and_cameras_name_what_they_need(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("PIL", "cv2"):  # as where they are not installed
        monkeypatch.setitem(sys.modules, package, None)
    (bundle.parent / "x.png").write_bytes(b"")
    sentence = told(capsys, "run", bundle, "-i", bundle.parent / "x.png", code=1)
    assert "neither PIL nor cv2 is installed" in sentence
    assert "cv2 is needed for the camera" in told(capsys, "run", bundle, "-i", "camera", code=1)


def test_too_little_memory_is_told(bundle: Path) -> None:
    np.save(bundle.parent / "x.npy", np.zeros((3_000_000, 4), np.float32))
    command = [
        sys.executable,
        "-m",
        "nbcloud.inference.edge",
        "run",
        str(bundle),
        "-i",
        "x.npy",
        "--memory",
        "150MB",
    ]
    run = subprocess.run(
        [*command, "--threads", "1"], cwd=bundle.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    assert run.stderr.startswith("nbcloud: ")
    assert run.stderr.count("\n") == 1


def test_a_store_from_the_command_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    first = told(capsys, "store", "add", store, bundle, "--activate").strip()
    second = told(capsys, "store", "add", store, make(tmp_path, "b.nbundle", seed=4, version="2")).strip()
    assert told(capsys, "store", "ls", store) == f"* {first}\n  {second}\n"
    assert told(capsys, "store", "activate", store, second).strip() == second
    assert told(capsys, "store", "rollback", store).strip() == first
    status = json.loads(told(capsys, "store", "status", store, "--json"))
    assert (status["active"], status["previous"], status["trouble"]) == (first, second, "")
    np.save(tmp_path / "x.npy", SAMPLE)
    assert answers(capsys, store, tmp_path / "x.npy") == answers(capsys, bundle, tmp_path / "x.npy")
    assert "There is no version 'x'" in told(capsys, "store", "activate", store, "x", code=1)


def test_serve_says_where_and_ends_with_ctrl_c(bundle: Path) -> None:
    command = [sys.executable, "-m", "nbcloud.inference.edge", "serve", str(bundle), "--port", "0"]
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from nbcloud.inference.edge.__main__ import main; sys.exit(main())"
    command[1:3] = ["-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        where = process.stdout.readline().split(" at ")[1].strip()
        with urllib.request.urlopen(where) as answer:
            assert json.load(answer)["name"] == "flowers"
        process.send_signal(2)
        assert process.wait(20) == 130


def test_telemetry_of_a_run_is_delivered(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", SAMPLE + 100)
    queue, receiver = tmp_path / "queue", tmp_path / "receiver"
    receiver.mkdir()
    told(capsys, "run", bundle, "-i", tmp_path / "x.npy", "--telemetry", queue)
    assert told(capsys, "deliver", queue, "--to", receiver, "--device", "d1").strip() == "Delivered: 1"
    (file,) = receiver.iterdir()
    (event,) = json.loads(file.read_text())["events"]
    assert event["count"] == 1
    assert event["drift"]["x"] > 50
    assert "There is no folder" in told(
        capsys, "deliver", tmp_path / "no", "--to", "x", "--device", "d", code=2
    )


def test_stdin_in_this_process(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n[[1, 2, 3, 4]]\n\n"))
    assert json.loads(told(capsys, "run", bundle, "-i", "-"))["input"] == "line 1"


def test_a_bundle_that_runs_itself_names_the_nearest_command(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vrify"], bundle=str(bundle)) == 2
    assert "There is no command 'vrify'. Did you mean verify?" in capsys.readouterr().err

"""``nbcloud optimize`` and ``nbcloud export FILE.onnx`` in a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from nbcloud import cli
from nbcloud.models.registry import Registry
from tests.bundles import SAMPLE, onnx_file


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    registry = Registry()
    registry.add(onnx_file(tmp_path / "m.onnx", width=512), "flowers")
    rows = np.repeat(SAMPLE, 4, axis=0)
    np.save("x.npy", rows)
    np.save("y.npy", np.arange(len(rows)) % 3)
    np.savetxt("y.csv", np.arange(len(rows)) % 3)
    header = "a,b,c,d,kind"
    np.savetxt("x.csv", np.c_[rows, np.arange(len(rows)) % 3], delimiter=",", header=header, comments="")
    return registry


def nbcloud(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(words) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    return err if code else out


def test_a_table_a_variant_and_what_to_type_next(registry: Registry, capsys) -> None:
    asked = ("optimize", "flowers", "--target", "edge", "--data", "x.npy")
    told = nbcloud(capsys, *asked, "--only", "int8-dynamic", "--max-size", "100KiB")
    assert told.splitlines()[0].split()[:4] == ["form", "size", "median", "p99"]
    assert told.count("chosen") == 1
    (variant,) = registry.get("flowers").entry.variants
    assert f"nbcloud edge bundle models:/flowers/1#{variant} --golden x.npy" in told
    nbcloud(capsys, "edge", "keygen", "key.pem")
    made = f"models:/flowers/1#{variant}", "--golden", "x.npy", "--sign", "key.pem", "-o", "f.nbundle"
    assert "f.nbundle is flowers 1" in nbcloud(capsys, "edge", "bundle", *made)


@pytest.mark.parametrize(("data", "expected"), [("x.npy", "y.npy"), ("x.npy", "y.csv"), ("x.csv", "kind")])
def test_as_json_with_what_would_be_right(registry: Registry, capsys, data: str, expected: str) -> None:
    how = ("--target", "cpu", "--data", data, "--expected", expected, "--only", "fp32", "--dry-run", "--json")
    found = json.loads(nbcloud(capsys, "optimize", "flowers", *how))
    assert (found["target"], found["best"], found["variant"], found["rows"]) == ("cpu-x86", "fp32", "", 24)
    assert 0 <= found["forms"][0]["accuracy"] <= 1
    assert registry.get("flowers").entry.variants == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--target", "edge-arm", "--data", "x.npy"), "There is no target 'edge-arm'. Did you mean"),
        (("--target", "edge", "--data", "z.npy"), "z.npy can't be read"),
        (("--target", "edge", "--data", "x.txt"), "a sample of that kind can't be read"),
        (("--target", "edge", "--data", "x.npy", "--expected", "kind"), "there is no such file or column"),
        (("--target", "edge", "--data", "x.npy", "--max-size", "big"), "--max-size"),
        (("--target", "edge", "--data", "x.npy", "--max-drop", "no"), "--max-drop 'no': it must be a number"),
        (("--target", "edge", "--data", "x.npy", "--only", "int3"), "There is no form 'int3' of models."),
        (("--target", "edge", "--data", "x.npy", "--output", "y"), "The model has no output 'y'."),
        (("--data", "x.npy"), "--target"),
    ],
)
def test_what_can_not_be_is_said_in_a_sentence(registry: Registry, capsys, words, told: str) -> None:
    assert told in nbcloud(capsys, "optimize", "flowers", *words, code=2)


def test_ctrl_c_ends_it_and_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = ["optimize", "flowers", "--target", "cpu", "--data", "x.npy"]
    code = (
        "import sys; from nbcloud import cli;"
        "sys.stderr.isatty = lambda: True; sys.exit(cli.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "measuring" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 130
    assert rest.strip().splitlines()[-1].endswith("Interrupted.")
    assert "Traceback" not in rest
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert [each for each in temporary.iterdir() if each.name.startswith("nbcloud")] == []
    assert registry.get("flowers").entry.variants == {}


def test_an_onnx_file_from_elsewhere_is_exported_and_registered(
    registry: Registry, tmp_path: Path, capsys
) -> None:
    model = onnx.load("m.onnx")
    del model.metadata_props[:]
    onnx.save(model, "theirs.onnx")
    asked = ("export", "theirs.onnx", "x.npy", "--name", "theirs", "--alias")
    for alias in ("a b", "2"):
        assert "can't be" in nbcloud(capsys, *asked, alias, code=2)
    assert registry.names() == ["flowers"]
    told = nbcloud(capsys, *asked, "first")
    assert "models:/theirs/1: verified on" in told
    assert registry.get("theirs@first").metadata.framework == "onnx"
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "theirs.onnx").read_bytes()[:200])
    assert "only a part of one" in nbcloud(capsys, "export", "cut.onnx", "x.npy", "--name", "c", code=1)

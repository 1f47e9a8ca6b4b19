"""``nbcloud edge``: keys, bundles, and devices behind a program ``ssh`` that runs everything on this machine."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from nbcloud import cli
from nbcloud.inference.edge import load
from nbcloud.models.registry import Registry
from tests.bundles import SAMPLE, make, onnx_file

SSH = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
[ "$2" = pi@gone ] && { echo "ssh: connect to host gone port 22: No route to host" >&2; exit 255; }
cd "$DEVICE_HOME" && unset PYTHONPATH && exec sh -c "$3"
"""


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a device's user."""
    home, programs = tmp_path / "device", tmp_path / "programs"
    home.mkdir()
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DEVICE_HOME", str(home))
    return home


def nbcloud(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert cli.main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_from_a_key_to_a_device_that_runs_it(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, bundle = tmp_path / "key.pem", tmp_path / "flowers.nbundle"
    assert "Public key" in nbcloud(capsys, "edge", "keygen", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    np.save(tmp_path / "x.npy", SAMPLE)
    model = onnx_file(tmp_path / "flowers.onnx")
    made = nbcloud(capsys, "edge", "bundle", model, "--golden", tmp_path / "x.npy", "--sign", key)
    assert f"{bundle} is flowers 1 (fp32)" in made
    assert load(bundle, trusted=tmp_path).signer == "key"

    assert "has no bundle in nbcloud. Type: nbcloud edge push BUNDLE pi@device" in nbcloud(
        capsys, "edge", "status", "pi@device", "--python", sys.executable
    )
    assert list(device.iterdir()) == []
    first = nbcloud(capsys, "edge", "push", bundle, "pi@device:my models", "--python", sys.executable)
    assert "it passed its self-test there" in first
    second = make(tmp_path, "second.nbundle", seed=2, version="2", sign=key)
    nbcloud(capsys, "edge", "push", second, "pi@device:~/my models", "--python", sys.executable)
    status = nbcloud(capsys, "edge", "status", "pi@device:my models", "--python", sys.executable, "--json")
    facts = json.loads(status)
    assert facts["active"].startswith("flowers-2-")
    assert facts["previous"].startswith("flowers-1-")
    assert sorted(path.name for path in (device / "my models").iterdir()) == [
        "incoming", "lock", "state.json", "versions"
    ]  # fmt: skip


def test_a_bundle_of_the_registry_may_have_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", SAMPLE)
    registry = Registry("registry")
    registry.add(onnx_file(tmp_path / "m.onnx"), "flowers")
    asked = ("edge", "bundle", "models:/flowers", "--golden", "x.npy", "--registry", "registry")
    assert "flowers-1.nbundle is flowers 1 (fp32)" in nbcloud(capsys, *asked)
    told = nbcloud(capsys, *asked, "--name", "roses", "--version", "7b", "-o", "r.nbundle")
    assert "r.nbundle is roses 7b (fp32)" in told
    manifest = load(tmp_path / "r.nbundle").manifest
    assert (manifest.name, manifest.version) == ("roses", "7b")
    assert [each["file"] for each in registry.get("flowers").entry.bundles] == [
        "flowers-1.nbundle", "r.nbundle"
    ]  # fmt: skip
    wrong = ("edge", "bundle", "flowers@best", "--golden", "x.npy")
    assert "one of the registry is models:/digits@champion" in nbcloud(capsys, *wrong, code=2)


def test_a_folder_that_can_not_be_had(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (device / "file").write_bytes(b"")
    said = nbcloud(capsys, "edge", "push", make(tmp_path), "pi@device:file/models", code=1)
    assert "pi@device says: mkdir: cannot create directory" in said


def test_a_full_disk_of_a_device_is_told_and_left_as_it_was(
    device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = tmp_path / "programs" / "ssh"
    ssh.write_text(ssh.read_text().replace("exec sh", "ulimit -f 20 && trap '' XFSZ && exec sh"))
    assert "File too large" in nbcloud(capsys, "edge", "push", make(tmp_path), "pi@device", code=1)
    assert list((device / "nbcloud").iterdir()) == []


def test_a_device_that_trusts_others_keeps_what_it_has(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (device / "nbcloud" / "trusted").mkdir(parents=True)
    bundle = make(tmp_path)
    said = nbcloud(capsys, "edge", "push", bundle, "pi@device", "--python", sys.executable, code=1)
    assert "pi@device says: " in said
    assert "is not signed, and must be." in said
    assert not list((device / "nbcloud").glob(".push-*"))


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ["pi@gone"],
            1,
            "pi@gone can't be reached: ssh: connect to host gone port 22: No route to host. "
            "Look whether this works: ssh pi@gone",
        ),
        (
            ["pi@device", "--python", "python9"],
            1,
            "pi@device has no program 'python9'. Name its Python: --python",
        ),
        (["-x:y"], 2, "the following arguments are required: DEVICE"),
        ([" :y"], 2, "' :y' is no device. Write for example: pi@camera-1:nbcloud"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_sentence(
    device: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = nbcloud(capsys, "edge", "push", make(tmp_path), *words, code=code)
    assert sentence in said
    assert said.count("\n") == 1


def test_a_damaged_bundle_is_not_sent(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make(tmp_path)
    bundle.write_bytes(bundle.read_bytes()[:-9])
    assert "is no bundle, or is cut off" in nbcloud(capsys, "edge", "push", bundle, "pi@device", code=1)
    assert list(device.iterdir()) == []

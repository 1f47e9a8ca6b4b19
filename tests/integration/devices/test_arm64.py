"""Bundles made on this machine answer on ARM processors as they do here, and their stores outlive a kill there."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbcloud.inference.edge.store import Store
from tests.integration.devices.conftest import Shipped
from tests.integration.devices.emulator import Device

pytestmark = [pytest.mark.devices, pytest.mark.timeout(600)]

TOLERANCES = {
    "fp32": 1e-6,
    "int8-static": 0.0,
    "int8-dynamic": 1e-6,
    "ort": 0.0,
    "columns": 0.0,
    "texts": 1e-6,
}
"""Of the largest magnitude. Integers are exact; sums of fractions are in another order there."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pi4", kind) for kind in TOLERANCES] + [("pi5", "int8-static"), ("pi5", "int8-dynamic")],
)
def test_a_device_answers_as_this_machine_does(
    devices: dict[str, Device], shipped: dict[str, Shipped], key: Path, tmp_path: Path, name: str, kind: str
) -> None:
    words = [shipped[kind].bundle, "--input", shipped[kind].input, "--trusted", key.parent / "trusted"]
    there = answers(devices[name].run(*words, "--json", folder=tmp_path))
    here = answers(
        subprocess.run([sys.executable, *words, "--json"], capture_output=True, text=True, check=False)
    )
    assert there.keys() == here.keys()
    for output, expected in here.items():
        if expected.dtype.kind == "f":
            allowed = TOLERANCES[kind] * np.abs(expected).max()
            np.testing.assert_allclose(there[output], expected, rtol=0, atol=allowed)
        else:
            np.testing.assert_array_equal(there[output], expected)


def answers(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    return {name: np.asarray(value) for name, value in json.loads(run.stdout)["answers"].items()}


@pytest.mark.parametrize("kind", ["ort", "columns"])
def test_a_device_verifies_what_it_got(
    devices: dict[str, Device], shipped: dict[str, Shipped], key: Path, tmp_path: Path, kind: str
) -> None:
    run = devices["pi4"].run(
        shipped[kind].bundle, "verify", "--trusted", key.parent / "trusted", folder=tmp_path
    )
    assert run.stdout.endswith("is whole, signed by release, and answers as it should.\n"), run.stderr
    assert (run.returncode, run.stderr) == (0, "")


def test_a_device_refuses_what_was_changed_on_its_way(
    devices: dict[str, Device], shipped: dict[str, Shipped], key: Path, tmp_path: Path
) -> None:
    content = bytearray(shipped["fp32"].bundle.read_bytes())
    with zipfile.ZipFile(shipped["fp32"].bundle) as opened:
        content[opened.getinfo("model/fp32.onnx").header_offset + 1000] ^= 1
    (tmp_path / "changed.nbundle").write_bytes(content)
    words = ["changed.nbundle", "--input", shipped["fp32"].input, "--trusted", key.parent / "trusted"]
    run = devices["pi4"].run(*words, folder=tmp_path)
    assert run.returncode == 1
    assert run.stderr == (
        "nbcloud: changed.nbundle is damaged: model/fp32.onnx is not what it was. Fetch it again.\n"
    )


def test_telemetry_of_a_device_comes_home(
    devices: dict[str, Device], shipped: dict[str, Shipped], tmp_path: Path
) -> None:
    lines = "\n".join(json.dumps([text]) for text in ("good", "bad", "good, and cheap"))
    words = [shipped["texts"].bundle, "--input", "-", "--telemetry", "queue"]
    run = devices["pi4"].run(*words, folder=tmp_path, text=lines)
    assert len(run.stdout.splitlines()) == 3, run.stderr
    (tmp_path / "home").mkdir()
    words = [shipped["texts"].bundle, "deliver", "queue", "--to", "home", "--device", "camera-1"]
    run = devices["pi4"].run(*words, folder=tmp_path)
    assert run.stdout.startswith("Delivered: "), run.stderr
    (batch,) = [json.loads(path.read_text()) for path in (tmp_path / "home").iterdir()]
    assert batch["device"] == "camera-1"
    assert sum(event.get("count", 0) for event in batch["events"]) == 3


KILLED = """
import os, signal, sys
from pathlib import Path

from nbcloud.inference.edge.store import Store

folder, bundle = Path(sys.argv[1]), Path(sys.argv[2])
changes = {"open", "os.rename", "os.remove", "os.mkdir", "subprocess.Popen", "fcntl.flock"}


def update(number):
    seen = 0

    def look(event, arguments):
        nonlocal seen
        if event in changes and str(folder) in str(arguments):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    store = Store(folder)
    store.activate(store.add(bundle))


for number in range(1, 100):
    child = os.fork()
    if not child:
        update(number)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(ended, Store(folder).state().active, flush=True)
    if ended == 0:
        break
"""
"""Updates on the device: the n-th is killed at its n-th change of the store, until one is through."""


def test_a_store_on_a_device_has_the_old_model_or_the_new_one_wherever_it_was_killed(
    devices: dict[str, Device], shipped: dict[str, Shipped], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    old = store.activate(store.add(shipped["columns"].bundle))
    run = devices["pi4"].run(
        "-c", KILLED, store.folder, shipped["texts"].bundle, folder=tmp_path, path=shipped["texts"].bundle
    )
    assert run.returncode == 0, run.stderr
    ended = [line.split() for line in run.stdout.splitlines()]
    codes, active = [int(code) for code, _ in ended], [name for _, name in ended]
    assert len(ended) > 8
    assert set(codes[:-1]) == {-9}
    assert codes[-1] == 0
    new = active[-1]
    assert active == sorted(active, key=lambda name: name == new)
    assert {*active} == {old, new}
    assert Store(store.folder).open().manifest.name == "opinions"
    assert store.state().previous == old
    assert not list((store.folder / "incoming").iterdir())

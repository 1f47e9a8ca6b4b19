"""The device's store: whenever it is stopped, the old model or the new one runs."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nbcloud.errors import BundleError, ModelNotFound, StoreError
from nbcloud.inference.edge import load
from nbcloud.inference.edge.files import locked
from nbcloud.inference.edge.store import Store
from nbcloud.models.bundle import archive, build, keys
from nbcloud.models.bundle.golden import to_member
from nbcloud.models.bundle.manifest import File
from tests.bundles import SAMPLE, make, onnx_file

UPDATE = """
import os, resource, signal, sys
from pathlib import Path
from nbcloud.inference.edge.store import Store

folder, bundle, kind, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
changes = {"open", "os.rename", "os.remove", "os.mkdir", "subprocess.Popen", "fcntl.flock"}
seen = 0


def limit():  # the process is killed when it writes the byte after these
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def look(event, arguments):
    global seen
    if kind == "state" and event == "open" and str(arguments[0]).endswith("state.json") and "w" in str(arguments[1]):
        limit()
    if kind == "step" and event in changes and str(folder) in str(arguments):
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(look)
if kind == "copy":
    limit()
print("begun", flush=True)
store = Store(folder)
store.activate(store.add(bundle))
"""
"""An update that ends itself: at a byte of the copy, at a byte of the state, at the n-th change of the folder."""


def stopped_update(folder: Path, bundle: Path, kind: str, number: int) -> int:
    """Begin an update that is killed at some point; returns how it ended."""
    command = [sys.executable, "-c", UPDATE, str(folder), str(bundle), kind, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if kind == "time":
            try:
                process.wait(number / 1000)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()


def stop_many(folder: Path, times: int, seed: int = 0) -> dict[str, int]:
    """Updates that are killed at ``times`` points; after each the store must be well. Counts how they ended."""
    first, second = (make(folder, f"{seed}.nbundle", seed=seed, width=64) for seed in (1, 2))
    store = Store(folder / "store")
    names = {store.add(first): first, store.add(second): second}
    store.activate(next(iter(names)))
    chance = random.Random(seed)
    size = first.stat().st_size
    ended: dict[str, int] = {}
    for turn in range(times):
        active = store.state().active
        new = next(path for name, path in names.items() if name != active)
        kind = ("copy", "copy", "copy", "step", "state", "time")[turn % 6]
        most = {"copy": size, "step": 14, "state": 140, "time": 900}[kind]
        code = stopped_update(store.folder, new, kind, chance.randint(1, most))
        store = Store(store.folder)
        model = store.open()
        assert store.state().active in names
        assert store.state().trouble == ""
        model.self_test()
        assert not list((store.folder / "incoming").iterdir())
        assert {path.suffix for path in (store.folder / "versions").iterdir()} == {".nbundle"}
        how = f"{kind}: {'killed' if code < 0 else 'done'}, {'old' if store.state().active == active else 'new'}"
        ended[how] = ended.get(how, 0) + 1
    return ended


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_at_any_point_of_an_update_the_old_model_or_the_new_one_runs(tmp_path: Path) -> None:
    ended = stop_many(tmp_path, 60)
    assert ended["copy: killed, old"] >= 20
    assert ended["state: killed, old"] >= 5
    assert ended["step: killed, old"] >= 5


def test_what_an_update_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    code = stopped_update(store.folder, make(tmp_path), "copy", 1000)
    assert code == -signal.SIGXFSZ
    assert [path.stat().st_size for path in (store.folder / "incoming").iterdir()] == [1000]
    assert Store(store.folder).names() == []
    assert not list((store.folder / "incoming").iterdir())


def test_update_and_rollback(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    old, new = make(tmp_path, "old.nbundle", seed=1), make(tmp_path, "new.nbundle", seed=2, version="2")
    first = store.activate(store.add(old))
    second = store.activate(store.add(new))
    assert (store.state().active, store.state().previous) == (second, first)
    np.testing.assert_array_equal(
        store.open().predict(SAMPLE)["probabilities"], load(new).predict(SAMPLE)["probabilities"]
    )
    assert store.rollback() == first
    assert store.open().manifest.version == "1"
    third = store.activate(store.add(make(tmp_path, "third.nbundle", seed=3, version="3")))
    assert store.names() == sorted([first, third])


def wrong_on_this_device(folder: Path, name: str) -> Path:
    """A bundle whose golden answers are another model's, as on a device that computes otherwise."""
    path = make(folder, name, seed=1, version="9")
    content = to_member(load(make(folder, "other.nbundle", seed=2)).predict(SAMPLE)["probabilities"])[1]
    manifest = load(path).manifest
    member = manifest.golden.outputs["probabilities"]
    files = {**manifest.files, member: File(len(content), hashlib.sha256(content).hexdigest())}
    with zipfile.ZipFile(path) as opened:
        members = {each: opened.read(each) for each in opened.namelist()}
    told = replace(manifest, files=files).to_bytes()
    archive.write(path, {**members, member: content, "manifest.json": told})
    return path


def test_a_model_that_fails_its_self_test_is_not_activated(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    active = store.activate(store.add(make(tmp_path)))
    added = store.add(wrong_on_this_device(tmp_path, "wrong.nbundle"))
    with pytest.raises(BundleError, match="did not pass its self-test") as caught:
        store.activate(added)
    assert "does not answer here as it should: output 'probabilities', at [0, 0]" in str(caught.value)
    assert str(caught.value).endswith(f"The active one stays: {active}.")
    assert store.state().active == active


def test_an_active_model_that_fails_goes_back_by_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = store.activate(store.add(make(tmp_path)))
    second = store.activate(store.add(make(tmp_path, "new.nbundle", seed=2, version="2")))
    path = store.path(second)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    said: list[str] = []
    assert store.open(say=said.append, arena=False).manifest.version == "1"
    assert said == [f"{second}: {path.name} is damaged at its end. The version before it answers: {first}."]
    assert store.state().active == second  # with little memory this process goes back, and not the device
    assert store.open().manifest.version == "1"
    assert store.state().active == first
    assert store.state().trouble.startswith(f"{second}: ")


def test_going_back_by_itself_undoes_no_update(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.activate(store.add(make(tmp_path)))
    broken = store.path(store.activate(store.add(make(tmp_path, "new.nbundle", seed=2, version="2"))))
    broken.write_bytes(broken.read_bytes()[:-1] + b"!")
    with locked(store.folder / "lock"):  # an update begins: the device answers meanwhile
        assert store.open().manifest.version == "1"
    before = store.state()
    third = store.activate(store.add(make(tmp_path, "third.nbundle", seed=3, version="3")))
    store._go_back(before, "was broken")  # by a process that had looked before that update
    assert store.state().active == third
    assert store.open().manifest.version == "3"


def test_what_an_update_left_on_a_disk_that_is_read_only_now(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.activate(store.add(make(tmp_path)))
    (store.folder / "incoming" / "1.nbundle").mkdir()  # can't be removed as a file, whoever one is
    assert Store(tmp_path / "store").open().manifest.version == "1"


def test_only_signed_ones_where_there_are_trusted_keys(tmp_path: Path) -> None:
    public, _ = keys.generate(tmp_path / "key.pem")
    folder = tmp_path / "store" / "trusted"
    folder.mkdir(parents=True)
    public.rename(folder / public.name)
    store = Store(tmp_path / "store")
    with pytest.raises(BundleError, match=r"flowers.nbundle is not signed, and must be"):
        store.add(make(tmp_path))
    name = store.activate(store.add(make(tmp_path, sign=tmp_path / "key.pem")))
    assert store.open().signer == "key"
    assert store.names() == [name]


def test_a_bundle_that_is_damaged_is_not_taken_in(tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    store = Store(tmp_path / "store")
    with pytest.raises(BundleError, match=r"flowers.nbundle is no bundle, or is cut off"):
        store.add(path)
    with pytest.raises(BundleError, match="There is no file"):
        store.add(tmp_path / "none.nbundle")
    assert store.names() == []
    assert not list((tmp_path / "store" / "incoming").iterdir())


def test_what_there_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(ModelNotFound, match=r"No version in .* is active. Type: store activate VERSION"):
        store.open()
    with pytest.raises(ModelNotFound, match=r"There is no version 'x' in .* There are: none"):
        store.activate("x")
    with pytest.raises(ModelNotFound, match="has no version before the active one"):
        store.rollback()
    (store.folder / "state.json").write_text("{")
    with pytest.raises(StoreError, match=r"state.json can't be read"):
        store.state()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the system")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    import resource

    store, bundle = Store(tmp_path / "store"), make(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StoreError, match=r"can't be written: File too large\. Look at its disk"):
            store.add(bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((store.folder / "incoming").iterdir())


def test_two_updates_do_not_meet(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundle = make(tmp_path)
    with locked(store.folder / "lock"), pytest.raises(StoreError, match="Another process changes"):
        store.add(bundle)
    store.add(bundle)


def test_a_name_for_people_can_not_lead_elsewhere(tmp_path: Path) -> None:
    bundle = tmp_path / "odd.nbundle"
    build.bundle(
        onnx_file(tmp_path / "x.onnx"), bundle, golden=SAMPLE, name="../../Blumen – 花", version="1/2"
    )
    store = Store(tmp_path / "store")
    name = store.add(bundle)
    assert name.startswith("Blumen")
    assert store.path(name).parent == store.folder / "versions"
    assert store.activate("Blumen") == name

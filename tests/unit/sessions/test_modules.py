"""The notebook's own modules are importable in the session, and follow their changes."""

import importlib
import sys

import pytest
import xxhash

from nbcloud.errors import TransferError
from nbcloud.sessions.modules import RemoteModules


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "spool").mkdir()
    yield tmp_path / "spool"
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


def entry(name, text, *, data=None, relative=None, path="/on/another/machine.py"):
    file = relative or name.replace(".", "/") + ".py"
    return {
        "name": name,
        "relative": file,
        "path": path,
        "hash": xxhash.xxh3_128_hexdigest(text.encode()),
        "data": data,
    }


def test_a_file_is_asked_for_once_and_then_importable(spool):
    modules, text = RemoteModules(), "value = 1\n"
    asked = modules.refresh([entry("far_away", text)], [], spool)
    assert asked == [entry("far_away", text)["hash"]]
    assert modules.refresh([entry("far_away", text, data=0)], [text.encode()], spool) == []
    assert importlib.import_module("far_away").value == 1
    assert modules.refresh([entry("far_away", text)], [], spool) == []


def test_a_change_reaches_functions_that_were_imported_before(spool):
    modules = RemoteModules()
    old, new = "def answer(): return 1\n", "def answer(): return 2\n"
    modules.refresh([entry("changing", old, data=0)], [old.encode()], spool)
    from changing import answer

    assert answer() == 1
    modules.refresh([entry("changing", new, data=0)], [new.encode()], spool)
    assert answer() == 2


def test_a_package_with_a_module_in_it(spool):
    modules = RemoteModules()
    texts = ["", "value = 5\n"]
    entries = [
        entry("package_x", texts[0], data=0, relative="package_x/__init__.py"),
        entry("package_x.part", texts[1], data=1),
    ]
    assert modules.refresh(entries, [text.encode() for text in texts], spool) == []
    assert importlib.import_module("package_x.part").value == 5


def test_a_file_of_the_same_file_system_is_used_in_place(spool, tmp_path):
    text = "value = 1\n"
    (tmp_path / "near.py").write_text(text)
    assert RemoteModules().refresh([entry("near", text, path=str(tmp_path / "near.py"))], [], spool) == []
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("relative", ["../escape.py", "/tmp/escape.py", "a/../../escape.py"])
def test_a_path_never_leads_out(spool, relative):
    with pytest.raises(TransferError, match="outside"):
        RemoteModules().refresh([entry("escape", "x", data=0, relative=relative)], [b"x"], spool)
    assert not list(spool.parent.rglob("escape.py"))

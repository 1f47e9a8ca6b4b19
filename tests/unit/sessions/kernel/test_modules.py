"""The notebook's own modules are importable in the session, and follow their changes."""

import importlib
import sys

import pytest
import xxhash

from nbcloud.errors import TransferError
from nbcloud.sessions.kernel.modules import RemoteModules


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


def test_what_did_not_change_is_not_run_again(spool):
    modules, text = RemoteModules(), "runs = []\n"
    modules.refresh([entry("steady", text, data=0)], [text.encode()], spool)
    import steady

    steady.runs.append("a cell was here")
    modules.refresh([entry("steady", text)], [], spool)
    assert steady.runs == ["a cell was here"]


def test_nothing_is_reloaded_before_all_files_are_there(spool):
    modules = RemoteModules()
    old, new, other = "value = 1\n", "value = 2\n", "import waiting\n"
    modules.refresh([entry("waiting", old, data=0)], [old.encode()], spool)
    import waiting

    late = entry("late", other)
    asked = modules.refresh([entry("waiting", new, data=0), late], [new.encode()], spool)
    assert asked == [late["hash"]]
    assert waiting.value == 1
    assert modules.refresh([entry("waiting", new), {**late, "data": 0}], [other.encode()], spool) == []
    assert waiting.value == 2


def test_a_module_that_was_not_imported_is_not_run_by_a_change(spool):
    modules = RemoteModules()
    old, new = "value = 1\n", "raise ZeroDivisionError\n"
    modules.refresh([entry("unused", old, data=0)], [old.encode()], spool)
    assert modules.refresh([entry("unused", new, data=0)], [new.encode()], spool) == []
    assert "unused" not in sys.modules


def test_what_a_cell_wrote_is_not_reloaded_behind_its_back(spool, tmp_path, monkeypatch):
    modules, file = RemoteModules(), tmp_path / "written.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    old, new, newer = "value = 1\n", "value = 2\n", "value = 3\n"
    file.write_text(old)
    modules.refresh([entry("written", old, path=str(file))], [], spool)
    import written

    file.write_text(new)
    modules.settle()
    modules.refresh([entry("written", new, path=str(file))], [], spool)
    assert written.value == 1
    file.write_text(newer)
    modules.refresh([entry("written", newer, path=str(file))], [], spool)
    assert written.value == 3


@pytest.mark.parametrize("relative", ["../escape.py", "/tmp/escape.py", "a/../../escape.py"])
def test_a_path_never_leads_out(spool, relative):
    with pytest.raises(TransferError, match="outside"):
        RemoteModules().refresh([entry("escape", "x", data=0, relative=relative)], [b"x"], spool)
    assert not list(spool.parent.rglob("escape.py"))

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import xxhash

from nbcloud.cells.modules import local_modules


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in front of sys.path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(root: Path, **sources: str) -> None:
    """Write modules: ``pkg__sub="…"`` goes to pkg/sub.py, ``pkg__="…"`` to pkg/__init__.py."""
    for name, source in sources.items():
        *folders, module = name.split("__")
        file = root.joinpath(*folders, f"{module or '__init__'}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


def found(*names: str) -> list[str]:
    return list(local_modules(names))


def test_a_module_of_the_users(root: Path) -> None:
    write(root, helpers="x = 1\n")
    module = local_modules(["helpers"])["helpers"]
    assert (module.name, module.path, module.relative) == ("helpers", root / "helpers.py", "helpers.py")
    assert module.hash == xxhash.xxh3_128_hexdigest(b"x = 1\n")


OTHERS = """os os.path json sys math _frozen_importlib zipimport distutils numpy numpy.linalg xxhash
nbcloud nbcloud.cells.modules __main__ no_such_module no.such.module"""


@pytest.mark.parametrize("name", [*OTHERS.split(), ""])
def test_others_modules_stay_here(name: str) -> None:
    assert local_modules([name]) == {}


def test_names_in_modules_stand_for_the_modules(root: Path) -> None:
    write(root, a__="", a__b="def f(): ...")
    assert found("a.b.f", "a.b.f.attribute", "a.nothing") == ["a", "a.b"]


def test_all_packages_around_a_module_travel(root: Path) -> None:
    write(root, a__="", a__b__="", a__b__c="", a__b__d="")
    modules = local_modules(["a.b.c"])
    assert [module.relative for module in modules.values()] == [
        "a/__init__.py",
        "a/b/__init__.py",
        "a/b/c.py",
    ]


def test_what_a_module_imports_comes_before_it(root: Path) -> None:
    write(root, top="import middle, numpy", middle="def f():\n    from low import g", low="", other="")
    assert found("top") == ["low", "middle", "top"]


def test_imports_of_all_kinds_are_followed(root: Path) -> None:
    write(
        root,
        start="""
import a1, pkg.b1 as b
from a2 import name
from pkg import b2, function
if TYPE_CHECKING:
    import a3
class A:
    try:
        import a4
    except ImportError:
        pass
import importlib
importlib.import_module("a5")
__import__("a6")
""",
        **dict.fromkeys(["a1", "a2", "a3", "a4", "a5", "a6", "pkg__", "pkg__b1", "pkg__b2", "pkg__b3"], ""),
    )
    assert set(found("start")) == {"start", "a1", "a2", "a3", "a4", "a5", "a6", "pkg", "pkg.b1", "pkg.b2"}


def test_relative_imports(root: Path) -> None:
    write(
        root,
        p__="from . import one",
        p__one="from .sub import two, name",
        p__sub__="from .three import x",
        p__sub__two="from .. import four\nfrom ..five import y\nfrom ... import outside",
        p__sub__three="import_module('.six', __package__)",
        p__sub__six="",
        p__four="",
        p__five="",
        outside="",
        script="from . import p",
    )
    assert set(found("p")) == {
        "p",
        "p.one",
        "p.sub",
        "p.sub.two",
        "p.sub.three",
        "p.sub.six",
        "p.four",
        "p.five",
    }
    assert found("script") == ["script"]


def test_submodules_that_a_star_import_imports(root: Path) -> None:
    write(root, p__="__all__ = ['one', 'function']", p__one="", p__two="", user="from p import *")
    assert found("user") == ["p.one", "p", "user"]


def test_cycles(root: Path) -> None:
    write(root, a="import b", b="import c", c="import a", p__="from p import q", p__q="import p")
    assert found("a") == ["c", "b", "a"]
    assert found("p.q") == ["p.q", "p"]


def test_chains_longer_than_pythons_stack(root: Path) -> None:
    write(root, **{f"m{i}": f"import m{i + 1}" for i in range(1200)})
    assert len(found("m0")) == 1200


def test_namespace_packages_over_several_folders(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    write(root, space__one="from space.inner import two", space__inner__two="from . import three")
    write(other, space__inner__three="", space__four="")
    assert list(local_modules(["space.one"], path=[str(root), str(other)])) == [
        "space.inner.three",
        "space.inner.two",
        "space.one",
    ]
    assert local_modules(["space"]) == {}


def test_the_installed_part_of_a_namespace_package_stays_here(root: Path) -> None:
    installed = root / "lib" / "site-packages"
    write(root, space__mine="import space.theirs")
    write(installed, space__theirs="", plain="")
    assert list(local_modules(["space.mine", "plain"], path=[str(root), str(installed)])) == ["space.mine"]


def test_modules_in_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "one", here="import near")
    write(root / "one", near="")
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert found("here") == []
    monkeypatch.chdir(root / "one")
    assert found("here") == ["near", "here"]


class EditableFinder:
    """Finds a top-level package where setuptools' editable install says that it is."""

    def __init__(self, mapping: dict[str, Path]) -> None:
        self.mapping = mapping

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        folder = self.mapping.get(name)
        return spec_from_file_location(name, folder / "__init__.py") if folder else None


def test_an_editable_install_is_the_users_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = root / "project" / "code"
    write(source, __="from proj import sub", sub="")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, EditableFinder({"proj": source})])
    modules = local_modules(["proj.sub"])
    assert {name: module.relative for name, module in modules.items()} == {
        "proj.sub": "proj/sub.py",
        "proj": "proj/__init__.py",
    }
    assert modules["proj.sub"].path == source / "sub.py"


def test_an_editable_install_by_a_path_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "src", proj__="")
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "src")])
    assert found("proj") == ["proj"]


def test_a_finder_that_refuses_is_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            raise ModuleNotFoundError(name)

    write(root, helpers="")
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert found("helpers", "no_such_module") == ["helpers"]


def test_a_loaded_module_is_the_one_that_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "first", twice="")
    write(root / "second", twice="")
    monkeypatch.setattr(sys, "path", [str(root / "first"), *sys.path])
    importlib.import_module("twice")
    monkeypatch.setattr(sys, "path", [str(root / "second"), *sys.path[1:]])
    assert local_modules(["twice"])["twice"].path == root / "first" / "twice.py"
    (root / "first" / "twice.py").unlink()
    assert local_modules(["twice"])["twice"].path == root / "second" / "twice.py"


def test_odd_things_in_sys_modules_are_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, helpers="", lazy="")
    monkeypatch.setitem(sys.modules, "helpers", types.ModuleType("helpers"))
    monkeypatch.setitem(sys.modules, "lazy", object())  # type: ignore[misc]
    assert found("helpers", "lazy") == ["helpers", "lazy"]


def test_a_module_that_hides_one_of_pythons_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, antigravity="")
    assert found("antigravity") == ["antigravity"]


def test_nothing_is_executed(root: Path) -> None:
    write(root, a__="raise SystemExit", a__b="raise SystemExit")
    assert found("a.b") == ["a", "a.b"]
    assert "a" not in sys.modules


@pytest.mark.parametrize("source", [b"def (:", b"\xff\xfe", b"import b\n\x00"])
def test_a_module_that_is_no_python_travels_too(root: Path, source: bytes) -> None:
    (root / "broken.py").write_bytes(source)
    assert found("broken") == ["broken"]


def test_sources_in_other_encodings(root: Path) -> None:
    (root / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\nimport near")
    write(root, near="")
    assert found("latin") == ["near", "latin"]


def test_modules_that_are_no_source_stay_here(root: Path) -> None:
    (root / "compiled.pyc").write_bytes(b"")
    (root / "native.so").write_bytes(b"")
    assert found("compiled", "native") == []


def touch(file: Path, source: str) -> None:
    """Change a file so that its time of change differs, however coarse the clock."""
    before = file.stat().st_mtime_ns
    file.write_text(source)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_an_edit_is_noticed(root: Path) -> None:
    write(root, a="import b", b="", c="")
    first = local_modules(["a"])
    assert list(first) == ["b", "a"]
    touch(root / "a.py", "import c")
    second = local_modules(["a"])
    assert list(second) == ["c", "a"]
    assert first["a"].hash != second["a"].hash


def test_files_that_come_and_go_are_noticed(root: Path) -> None:
    write(root, a="import b")
    assert found("a", "new") == ["a"]
    write(root, b="", new="")
    os.utime(root, ns=(1, 1))
    assert found("a", "new") == ["b", "a", "new"]
    (root / "a.py").unlink()
    os.utime(root, ns=(2, 2))
    assert found("a", "new") == ["new"]


def test_a_folder_that_becomes_a_package_is_noticed(root: Path) -> None:
    write(root, p__q="")
    assert found("p.q") == ["p.q"]
    write(root, p__="")
    os.utime(root / "p", ns=(1, 1))
    assert found("p.q") == ["p", "p.q"]


def test_unchanged_files_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, a="import b", b="")
    first = local_modules(["a"])
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} is read"))
    assert local_modules(["a"]) == first


def test_the_same_modules_as_python_finds(root: Path) -> None:
    write(root, p__="", p__q__="", p__q__r="", both="", both__="")
    for name in ("p.q.r", "both"):
        module = importlib.import_module(name)
        del sys.modules[name]
        assert str(local_modules([name])[name].path) == module.__file__
    assert PathFinder.find_spec("both") is not None

"""Whatever is done to a bundle on its way, it is refused with one sentence, before anything of it is used."""

from __future__ import annotations

import io
import json
import random
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbcloud.errors import BundleError
from nbcloud.inference.edge import load
from nbcloud.inference.edge.model import checked
from nbcloud.models.bundle import archive, keys, trust
from nbcloud.models.bundle.archive import Archive
from tests.bundles import make

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys, one of which is trusted, and a bundle of each kind."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("ours", "theirs"):
        keys.generate(folder / f"{name}.pem")
    (folder / "trusted").mkdir()
    (folder / "ours.pub.pem").rename(folder / "trusted" / "ours.pub.pem")
    make(folder, "signed.nbundle", sign=folder / "ours.pem")
    make(folder, "unsigned.nbundle")
    return folder


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def refused(path: Path, trusted: Path | None = None) -> str:
    """What is said, all in one sentence and a hint."""
    with pytest.raises(BundleError) as caught:
        load(path, trusted=trusted)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(folder: Path, change: Callable[[bytearray], Any], kind: str = "signed") -> Path:
    content = bytearray((folder / f"{kind}.nbundle").read_bytes())
    change(content)
    (folder / "changed.nbundle").write_bytes(content)
    return folder / "changed.nbundle"


def written(folder: Path, made: Members) -> Path:
    """A bundle in its right form with other members, as somebody makes it who knows the form."""
    archive.write(folder / "written.nbundle", made)
    return folder / "written.nbundle"


# --- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["signed", "unsigned"])
def test_one_flipped_bit_anywhere_is_seen(folder: Path, kind: str) -> None:
    content = (folder / f"{kind}.nbundle").read_bytes()
    chance = random.Random(kind)
    places = {chance.randrange(len(content)) for _ in range(400)} | set(range(64))
    places |= set(range(len(content) - 128, len(content)))
    with zipfile.ZipFile(folder / f"{kind}.nbundle") as opened:
        for info in opened.infolist():
            begin = info.header_offset
            data = begin + 30 + len(info.filename)
            places |= {begin + 5, begin + 10, begin + 14, begin + 20, data - 1}
            places |= {
                min(data + chance.randrange(max(info.file_size, 1)), len(content) - 1) for _ in range(5)
            }
    path = folder / "flipped.nbundle"
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(BundleError) as caught, Archive(path) as opened:
            checked(opened, folder / "trusted" if kind == "signed" else None)
        assert path.name in caught.value.message, place
        assert caught.value.hint


@pytest.mark.parametrize("part", [0, 1, 21, 22, 1000, 0.3, 0.7, 0.999, -1])
def test_a_file_that_is_cut_off(folder: Path, part: float) -> None:
    size = (folder / "signed.nbundle").stat().st_size
    keep = int(part if part >= 1 or part == 0 else size * part) if part >= 0 else size - 1
    assert "is no bundle, or is cut off" in refused(
        changed(folder, lambda content: content.__delitem__(slice(keep, None)))
    )


def test_something_added(folder: Path) -> None:
    assert "its end is missing" in refused(changed(folder, lambda content: content.extend(b"#")))
    assert "something added" in refused(
        changed(folder, lambda content: content.__setitem__(slice(0, 0), b"#!/x\n"))
    )


def test_what_is_no_bundle_at_all(folder: Path) -> None:
    (folder / "text.nbundle").write_text("no bundle at all, and longer than the end of one would be")
    assert "text.nbundle is no bundle, or is cut off" in refused(folder / "text.nbundle")
    assert "nothing.nbundle can't be read: No such file" in refused(folder / "nothing.nbundle")


# --- signatures ------------------------------------------------------------------------------------------


def test_the_right_one_is_accepted(folder: Path) -> None:
    assert load(folder / "signed.nbundle", trusted=folder / "trusted").signer == "ours"
    assert load(folder / "unsigned.nbundle").signer == ""


def test_unsigned_where_trust_is_required(folder: Path) -> None:
    assert "is not signed, and must be" in refused(folder / "unsigned.nbundle", folder / "trusted")


def test_signed_by_somebody_else(folder: Path) -> None:
    path = make(folder, "theirs.nbundle", sign=folder / "theirs.pem")
    sentence = refused(path, folder / "trusted")
    assert "whom this device does not trust; it trusts ours (" in sentence


def test_a_folder_without_keys_trusts_nobody(folder: Path, tmp_path: Path) -> None:
    assert "it trusts nobody" in refused(folder / "signed.nbundle", tmp_path)


def test_the_users_own_keys_count_when_nothing_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "home" / ".config" / "nbcloud").mkdir(parents=True)
    shutil.copytree(folder / "trusted", folder / "home" / ".config" / "nbcloud" / "trusted")
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert "is not signed, and must be" in refused(folder / "unsigned.nbundle")


@pytest.mark.parametrize("trusting", [True, False])
def test_a_signature_of_another_manifest(folder: Path, trusting: bool) -> None:
    made = members(folder / "signed.nbundle")
    made["manifest.json"] = made["manifest.json"].replace(b'"fp32"', b'"fp33"')
    sentence = refused(written(folder, made), folder / "trusted" if trusting else None)
    assert "has a signature that is not of its manifest" in sentence


def test_signatures_are_checked_the_same_without_cryptography(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.exceptions", None)
    assert load(folder / "signed.nbundle", trusted=folder / "trusted").signer == "ours"
    made = members(folder / "signed.nbundle")
    made["manifest.json"] = made["manifest.json"].replace(b'"fp32"', b'"fp33"')
    assert "not of its manifest" in refused(written(folder, made), folder / "trusted")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"[" * 900, b'{"algorithm": "rsa"}', b"x" * 2000], ids=len
)
def test_a_signature_that_is_none(folder: Path, content: bytes) -> None:
    made = members(folder / "signed.nbundle")
    made["signature"] = content
    assert "sign" in refused(written(folder, made), folder / "trusted")


def test_a_signature_written_otherwise(folder: Path) -> None:
    made = members(folder / "signed.nbundle")
    made["signature"] += b" "
    assert "not written as it must be" in refused(written(folder, made), folder / "trusted")


# --- members ---------------------------------------------------------------------------------------------


def test_a_member_that_was_replaced(folder: Path) -> None:
    made = members(folder / "signed.nbundle")
    made["model/flowers.onnx"] = made["model/flowers.onnx"][:-1] + b"!"
    assert "is damaged: model/flowers.onnx is not what it was" in refused(written(folder, made))


def test_a_member_of_another_size(folder: Path) -> None:
    made = members(folder / "signed.nbundle")
    made["model/flowers.onnx"] += b"!"
    assert "has model/flowers.onnx with 787 bytes, and its manifest says 786" in refused(
        written(folder, made)
    )


def test_a_member_too_many_and_one_too_few(folder: Path) -> None:
    made = members(folder / "signed.nbundle")
    assert "has extra.py, which its manifest does not list" in refused(
        written(folder, made | {"extra.py": b""})
    )
    del made["sbom.cdx.json"]
    assert "lacks 'sbom.cdx.json', which its manifest lists" in refused(written(folder, made))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "a//b", "c:x", "a\\b", "~/x", "a/./b", "x.", "."]
)
def test_a_name_that_climbs_out(folder: Path, name: str) -> None:
    made = members(folder / "signed.nbundle") | {name: b"x"}
    assert "a name that could lead elsewhere" in refused(zipped(folder, made))
    with pytest.raises(BundleError, match="can't be the name of a member"):
        written(folder, made)


def zipped(folder: Path, made: Members, change: Callable[[zipfile.ZipInfo], Any] = lambda _: None) -> Path:
    """Another program's zip."""
    path = folder / "zipped.nbundle"
    with zipfile.ZipFile(path, "w") as opened:
        for name in sorted(made):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            change(info)
            opened.writestr(info, made[name])
    return path


def test_another_programs_zip_of_the_same_members(folder: Path) -> None:
    path = zipped(folder, members(folder / "signed.nbundle"))
    if path.read_bytes() != (folder / "signed.nbundle").read_bytes():
        refused(path)


def test_a_link(folder: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        if info.filename == "model/flowers.onnx":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16

    made = members(folder / "signed.nbundle") | {"model/flowers.onnx": b"/etc/passwd"}
    assert "has a link, model/flowers.onnx" in refused(zipped(folder, made, link))


def test_a_bomb(folder: Path) -> None:
    def deflated(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    made = members(folder / "signed.nbundle") | {"a-bomb": bytes(50_000_000)}
    assert "compressed, which bundles don't do" in refused(zipped(folder, made, deflated))


def test_a_member_twice(folder: Path) -> None:
    path = folder / "twice.nbundle"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name in ("a", "b"):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            opened.writestr(info, b"x")
    twice = bytearray(content.getvalue().replace(b"b", b"a"))
    restamp(twice)
    path.write_bytes(twice)
    assert "has a twice" in refused(path)


def restamp(content: bytearray) -> None:
    """Dates and versions as bundles have them, so that only what is tested is wrong."""
    for magic, place in ((b"PK\3\4", 10), (b"PK\1\2", 12)):
        at = content.find(magic)
        while at >= 0:
            content[at + place : at + place + 4] = struct.pack("<HH", 0, 33)
            at = content.find(magic, at + 1)


@pytest.mark.parametrize("size", [0, 1, 785, 787, 2**31, 2**32 - 1])
def test_a_size_that_is_a_lie(folder: Path, size: int) -> None:
    def lie(content: bytearray) -> None:
        at = content.rfind(b"model/flowers.onnx", 0, content.rfind(b"PK\5\6")) - 46
        assert content[at : at + 4] == b"PK\1\2"
        content[at + 20 : at + 28] = struct.pack("<II", size, size)

    sentence = refused(changed(folder, lie))
    assert "flowers" in sentence or "belong to no member" in sentence or "says that" in sentence


def test_too_many_members(folder: Path) -> None:
    made = members(folder / "signed.nbundle") | {f"x/{number}": b"" for number in range(5000)}
    assert "and 4,096 is the most" in refused(written(folder, made))


def test_a_manifest_that_is_too_large(folder: Path) -> None:
    made = {"manifest.json": bytes(archive.SMALL + 1)}
    assert "has a manifest.json of 16,777,217 bytes" in refused(written(folder, made))


# --- manifests -------------------------------------------------------------------------------------------


def with_manifest(folder: Path, change: Callable[[Any], Any]) -> Path:
    """Signed by ours: what a manifest says is not believed because of who says it."""
    made = members(folder / "signed.nbundle")
    document = json.loads(made["manifest.json"])
    change(document)
    made["manifest.json"] = json.dumps(document).encode()
    made["signature"] = keys.sign(folder / "ours.pem", made["manifest.json"]).to_bytes()
    return written(folder, made)


def test_a_newer_format(folder: Path) -> None:
    path = with_manifest(folder, lambda document: document.update(format=2))
    assert "is of format 2; this runtime knows 1" in refused(path, folder / "trusted")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "1"},
        {"format": 0},
        {"name": 3},
        {"files": []},
        {"files": {"a": {"size": "x"}}},
        {"golden": None},
        {"target": {}},
        {"metadata": {"format": 1}},
        {"postprocessing": [3]},
        {"model": "model/other.onnx"},
        {"model": None},
    ],
    ids=str,
)
def test_a_manifest_that_says_nonsense(folder: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        load(with_manifest(folder, lambda document: document.update(change)), trusted=folder / "trusted")
    assert "manifest" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b"1", b"{}"], ids=len)
def test_a_manifest_that_is_none(folder: Path, content: bytes) -> None:
    assert "has a manifest that can't be read" in refused(written(folder, {"manifest.json": content}))


def test_no_manifest(folder: Path) -> None:
    assert "has no manifest.json" in refused(written(folder, {"x": b""}))


def test_a_public_key_that_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pub.pem").write_bytes((folder / "theirs.pem").read_bytes())
    with pytest.raises(ValueError, match="is no public Ed25519 key in PEM"):
        trust.trusted(tmp_path)


def test_nothing_is_read_beyond_what_is_there(folder: Path) -> None:
    """Random bytes that begin and end as a bundle does."""
    chance = random.Random(1)
    for _ in range(200):
        body = chance.randbytes(chance.randrange(200))
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(body), 0, 0)
        path = folder / "random.nbundle"
        path.write_bytes(io.BytesIO(body + end).getvalue())
        refused(path)

"""A bundle of the right form that says nonsense is refused in a sentence, whatever it says, and wherever."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from nbcloud.errors import BundleError, NbcloudError, UsageError
from nbcloud.inference.edge import load
from nbcloud.models.bundle import archive, golden, trust
from tests.bundles import SAMPLE, make

Members = dict[str, bytes]

NONSENSE = [
    None, True, -1, 3, 1e308, float("inf"), float("nan"), 10**400, "", "x", "\ud800", [], [1], ["x"], {}, {"x": 1},
    [[[]]], [-1],
]  # fmt: skip
GOLDEN = "golden/inputs/0.npy"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    with zipfile.ZipFile(make(tmp_path_factory.mktemp("bundle"))) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def written(path: Path, members: Members, document: Any) -> Path:
    archive.write(path, {**members, "manifest.json": json.dumps(document).encode()})
    return path


def with_member(folder: Path, members: Members, name: str, content: bytes) -> Path:
    """A bundle whose manifest lists what it has."""
    document = json.loads(members["manifest.json"])
    document["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return written(folder / "changed.nbundle", {**members, name: content}, document)


def used(path: Path) -> None:
    model = load(path)
    model.self_test()
    model.predict(SAMPLE)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("part", ["metadata", "golden", "target", "postprocessing", "name", "model", "files"])
def test_a_manifest_with_nonsense_at_any_place(tmp_path: Path, members: Members, part: str) -> None:
    document = json.loads(members["manifest.json"])
    document["files"] = dict(list(document["files"].items())[:2]) if part == "files" else document["files"]
    said = []
    for place in places(document[part]):
        for nonsense in NONSENSE:
            changed = copy.deepcopy(document)
            holder = changed
            *way, last = (part, *place)
            for key in way:
                holder = holder[key]
            holder[last] = nonsense
            try:
                used(written(tmp_path / "nonsense.nbundle", members, changed))
            except NbcloudError as error:
                said.append(str(error))
    assert len(said) >= 5
    assert not [sentence for sentence in said if "\n" in sentence]


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }\n"


def npy(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        npy(""),
        npy("{"),
        npy("(" * 500),
        npy('"""'),
        npy(HEADER % ("|V0", "99999999999,")),
        npy(HEADER % ("|O8", "1,"), b"x" * 8),
        npy(HEADER % ("<f4", "-1, -4"), b"x" * 16),
        npy(HEADER % ("<f4", "2L, 4"), b"x" * 32),
        npy(HEADER % ("<f4", "6, 4"), b"x" * 95),
        npy(HEADER % ("<f4", "99999999999999999999, 9999999999999999999"), b"x" * 96),
        npy(HEADER % ("<f4", "0, 99999999999999999999")),
        npy(HEADER % ("<q9", "6, 4"), b"x" * 96),
        npy(HEADER % ("<f4", "6, 4"), b"x" * 96)[:8] + b"\xff\x00" + bytes(300),
    ],
)
def test_a_golden_sample_that_is_no_array(tmp_path: Path, members: Members, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden/inputs/0\.npy, which is no array \("):
        load(with_member(tmp_path, members, GOLDEN, content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"{}",
        b'{"shape": [1e999], "texts": ["a"]}',
        b'{"shape": [9], "texts": ["a"]}',
        b"\xff",
    ],
    ids=len,
)
def test_a_golden_sample_that_is_no_text(content: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        golden.from_member("0.json", content)


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1),
        np.zeros((0, 3), np.int8),
        np.ones(5, bool),
        np.arange(6.0).reshape(2, 3).T,
        np.array([1], ">i4"),
    ],
    ids=repr,
)
def test_what_is_written_can_be_read(array: Any) -> None:
    name, content = golden.to_member(array)
    found = golden.from_member(name, content)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


# --- tricks of zips --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trick", ["", "zip64", "zip64 end", "comment", "extra", "descriptor", "gap", "overlap", "encrypted"]
)
def test_what_zips_can_hide_things_in(tmp_path: Path, members: Members, trick: str) -> None:
    path = tmp_path / "tricky.nbundle"
    with zipfile.ZipFile(path, "w") as opened:
        for name in sorted(members):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            info.extra = b"\x99\x99\x04\x00evil" if trick == "extra" else b""
            with opened.open(info, "w", force_zip64=trick == "zip64") as member:
                member.write(members[name])
        opened.comment = b"evil" if trick == "comment" else b""
    content = path.read_bytes()
    start, end = content.index(b"PK\1\2"), content.rindex(b"PK\5\6")
    if trick == "zip64 end":
        content = content[:end] + b"PK\6\6" + bytes(52) + b"PK\6\7" + bytes(16) + content[end:]
    elif trick == "descriptor":
        content = content[:6] + b"\x08" + content[7:]
    elif trick == "encrypted":
        content = content[:6] + b"\x01" + content[7:]
    elif trick == "gap":
        content = content[:start] + b"evil" + content[start:end] + content[end : end + 16]
        content += (start + 4).to_bytes(4, "little") + bytes(2)
    elif trick == "overlap":
        second = content.index(b"PK\1\2", start + 4)
        content = content[: second + 42] + bytes(4) + content[second + 46 :]
    path.write_bytes(content)
    if not trick:
        load(path)
        return
    with pytest.raises(BundleError, match=r"^tricky\.nbundle .* Fetch it again\.$"):
        load(path)


# --- what is not in the bundle ---------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("kind", ["beside", "beside.", "through", "above", "absolute"])
def test_weights_that_are_not_in_the_bundle(
    tmp_path: Path, members: Members, monkeypatch: pytest.MonkeyPatch, kind: str, beside: bool
) -> None:
    """A file of the device that the model names is not read, also not from the working directory."""
    here = tmp_path / "here"
    (here / "in").mkdir(parents=True)
    for folder in (here, tmp_path):
        (folder / "own.bin").write_bytes(bytes(128))
    monkeypatch.chdir(here)
    name = {
        "beside": "own.bin",
        "beside.": "./own.bin",
        "through": "in/../own.bin",
        "above": "../own.bin",
        "absolute": str(here / "own.bin"),
    }[kind]
    model = onnx.load_from_string(members["model/flowers.onnx"])
    weights = next(each for each in model.graph.initializer if list(each.dims) == [4, 8])
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", "0"), ("length", "128")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    path = with_member(tmp_path, members, "model/flowers.onnx", model.SerializeToString())
    if beside:
        with zipfile.ZipFile(path) as opened:
            changed = {each: opened.read(each) for each in opened.namelist()}
        path = with_member(tmp_path, changed, "model/other.bin", b"x")
    with pytest.raises(BundleError, match=r"onnxruntime .* can't load flowers 1 \(fp32\): .*xternal"):
        load(path)


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind")
def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"can't be read: Is a directory\. Look whether it is there, and a file"
    ):
        load(tmp_path)
    reader, writer = os.pipe()
    try:
        with pytest.raises(BundleError, match=r"can't be read: .*seek"):
            load(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_trusted_key_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "release.pub.pem").mkdir()
    with pytest.raises(UsageError, match=r"release\.pub\.pem can't be read: Is a directory\."):
        trust.trusted(tmp_path)

"""``nbcloud models`` in a shell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nbcloud import cli
from nbcloud.models import onnxfile
from nbcloud.models.metadata import KEY
from nbcloud.models.registry import Registry
from tests.bundles import SAMPLE, onnx_file


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    registry = Registry()
    for width in (8, 16):
        registry.add(onnx_file(tmp_path / "m.onnx", width=width), "flowers")
    return registry


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(["models", *words]) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    return err if code else out


def test_what_there_is(registry: Registry, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert [each["name"] for each in json.loads(told(capsys, "ls", "--json"))] == ["flowers"]
    listed = told(capsys, "ls", "flowers").splitlines()
    assert [line.split()[0] for line in listed] == ["version", "2", "1"]
    assert "x: float32[batch, 4]" in told(capsys, "show", "flowers/1")
    assert "models:/flowers/2" in told(capsys, "diff", "flowers/1", "flowers/2")
    told(capsys, "get", "flowers/1", "mine.onnx")
    assert (tmp_path / "mine.onnx").read_bytes() == registry.get("flowers/1").path().read_bytes()


def test_no_file_is_written_over(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        (tmp_path / f"{seed}").mkdir()
        registry.add(onnx_file(tmp_path / f"{seed}" / "m.onnx", seed=seed, external=True), "large")
    (tmp_path / "folder").mkdir()
    told(capsys, "get", "large/1", "folder")
    there = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    assert sorted(there) == ["large-1.onnx", "m.onnx.data"]
    assert "m.onnx.data is there already. Give another folder" in told(
        capsys, "get", "large/2", "folder", code=2
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == there
    assert "nowhere/x.onnx: No such file or directory." in told(
        capsys, "get", "flowers", "nowhere/x.onnx", code=1
    )


def test_a_metric_may_be_text(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_file(tmp_path / "m.onnx")
    metadata = replace(registry.get("flowers").metadata, metrics={"accuracy": "good"})
    onnxfile.set_properties(path, {KEY: metadata.to_text()})
    registry.add(path, "flowers")
    assert "accuracy good" in told(capsys, "ls", "flowers")
    assert "good" in told(capsys, "show", "flowers")


@pytest.mark.parametrize("content", ["", '{"format": 1, "kind": "alias"}', '{"format": 9}', "[]"])
def test_one_model_that_can_not_be_read_does_not_hide_the_others(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    registry.add(tmp_path / "m.onnx", "other")
    log = tmp_path / "data" / "models" / "models" / "other" / "log"
    (log / "00000002.json").write_text(content)
    listed = told(capsys, "ls")
    assert [line.split()[:2] for line in listed.splitlines()[1:3]] == [["flowers", "2"], ["other", "?"]]
    assert "in the registry" in told(capsys, "show", "other", code=1)
    told(capsys, "tag", "flowers/1", "a=b")
    told(capsys, "rm", "flowers/2", "-y")
    (log / "00000002.json").rename(log / "00000002 (copy).json")
    assert "x: float32" in told(capsys, "show", "other")


def test_an_alias_moves_and_goes_back(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "alias", "flowers/1", "best") == "flowers@best is version 1 now.\n"
    assert told(capsys, "alias", "flowers", "@best") == "flowers@best is version 2 now.\n"
    assert told(capsys, "rollback", "flowers", "best") == "flowers@best is version 1 again.\n"
    assert "best" in told(capsys, "history", "flowers")
    assert "nbcloud models alias digits/3 champion" in told(capsys, "alias", "flowers@best", "2", code=2)
    assert registry.get("flowers@best").number == 1
    assert told(capsys, "unalias", "flowers", "best") == "flowers has no @best any more.\n"


def test_a_tag_is_set_and_taken_away(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        told(capsys, "tag", "flowers/1", "team=vision")
        == "The tag 'team' is 'vision' at models:/flowers/1.\n"
    )
    assert registry.get("flowers/1").entry.tags == {"team": "vision"}
    assert "Write key=value" in told(capsys, "tag", "flowers/1", "team", code=2)
    assert "has no tag 'tema'. It has: team." in told(capsys, "untag", "flowers/1", "tema", code=2)
    assert "is taken away" in told(capsys, "untag", "flowers/1", "team")
    assert registry.get("flowers/1").entry.tags == {}


def test_a_stage_and_an_end(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "stage", "flowers/1", "production")
    assert registry.get("flowers/1").entry.stage == "production"
    assert "There are: none, staging" in told(capsys, "stage", "flowers/1", "prod", code=2)
    assert "nbcloud models rm flowers/2 -y" in told(capsys, "rm", "flowers/2", code=2)
    told(capsys, "rm", "flowers/2", "-y")
    assert [version.number for version in registry.versions("flowers")] == [1]


def test_each_that_points_at_a_version_can_be_removed_as_it_is_told(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias("flowers/1", "best")
    registry.add_variant("flowers/1", "int8", onnx_file(tmp_path / "v.onnx", seed=5), {})
    for name, rows in (("a.nbundle", SAMPLE), ("b.nbundle", SAMPLE[:3]), ("b.nbundle", SAMPLE[:3])):
        registry.get("flowers/1").bundle(tmp_path / name, rows, variant="int8")
    assert len(registry.get("flowers/1").entry.bundles) == 2
    done = []
    while "First: nbcloud models " in (said := told_any(capsys, "rm", "flowers/1", "-y")):
        done.append(said.partition("First: nbcloud models ")[2].split())
        told(capsys, *done[-1])
    assert done == [
        ["unalias", "flowers", "best"],
        ["rm", "flowers/1", "--bundle", "a.nbundle", "-y"],
        ["rm", "flowers/1", "--bundle", "b.nbundle", "-y"],
        ["rm", "flowers/1#int8", "-y"],
    ]
    assert said.startswith("flowers/1 is deleted; 0 B are free. Its files go")
    assert "Which version of flowers?" in told(capsys, "rm", "flowers", code=2)
    assert "There is none." in told(capsys, "rm", "flowers/2", "--bundle", "a.nbundle", "-y", code=1)


def told_any(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    cli.main(["models", *words])
    return "".join(capsys.readouterr())


def test_what_happened_is_known_after_the_end(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        told(capsys, "rm", f"flowers/{number}", "-y")
    assert "has no model yet" in told(capsys, "ls")
    assert told(capsys, "history", "flowers").count("delete") == 2
    assert "has no model 'roses'" in told(capsys, "history", "roses", code=1)

"""Tab in a shell that has been told of nbcloud; in bash, as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nbcloud.models.registry import Registry
from nbcloud.runs.record import Run
from nbcloud.runs.store import Store
from tests.bundles import onnx_file

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

SCRIPT = """
eval "$(register-python-argcomplete nbcloud)"
COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9
_python_argcomplete nbcloud
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], set[str]]:
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def offered(line: str) -> set[str]:
        """The words that Tab offers; bash takes a colon for the end of one."""
        run = subprocess.run(
            ["bash", "-c", SCRIPT, "tab", line],
            env={**os.environ, "PATH": programs},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stderr == ""
        return {word.strip() for word in run.stdout.splitlines()} - {""}

    return offered


def test_commands_flags_and_choices_are_offered(tab: Callable[[str], set[str]]) -> None:
    assert tab("nbcloud mod") == {"models"}
    assert {"show", "alias", "rollback"} < tab("nbcloud models ")
    assert tab("nbcloud runs --st") == {"--state"}
    assert tab("nbcloud runs --state fa") == {"failed"}


def test_what_there_is_by_name_is_offered(tab: Callable[[str], set[str]], tmp_path: Path) -> None:
    (tmp_path / "nbcloud.toml").write_text('[profiles.big]\nkind = "local"\n')
    registry = Registry()
    for name in ("digits", "flowers"):
        registry.add(onnx_file(tmp_path / "m.onnx"), name)
    registry.set_alias("digits", "best")
    with Store() as store:
        run = store.begin(Run(code="1", name="nightly"))
    assert tab("nbcloud down ") == {"big"}
    assert tab("nbcloud logs ") == {run.id, "nightly"}
    assert tab("nbcloud models show d") == {"digits", "digits@best", "digits/1"}
    assert tab("nbcloud models rollback digits ") == {"best"}
    assert tab("nbcloud models stage digits pro") == {"production"}
    assert tab("nbcloud edge bundle models:/f") == {"/flowers", "/flowers/1"}
    assert tab("nbcloud edge bundle m.o") == {"m.onnx"}
    assert tab("nbcloud export m.o") == {"m.onnx"}

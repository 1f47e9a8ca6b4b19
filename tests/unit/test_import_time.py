"""``import nbcloud`` and ``%load_ext nbcloud`` are quick, because they load nothing that is slow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "anywidget", "argcomplete", "cloudpickle", "comm", "cryptography", "dask", "dask_kubernetes", "distributed",
    "ipykernel", "ipywidgets", "jupyter_client", "jupyter_server", "jupyterlab", "keras", "matplotlib",
    "mlflow", "nbclient", "nbformat", "numpy", "onnx", "onnxruntime", "pandas", "papermill", "psutil",
    "scipy", "skl2onnx", "sklearn", "sqlite3", "tensorflow", "torch", "tornado", "xxhash", "zmq",
}  # fmt: skip

IMPORT = "import nbcloud"
LOAD = "shell.run_line_magic('load_ext', 'nbcloud')"


def loaded(code: str, *, shell: bool) -> set[str]:
    """Names of the modules that ``code`` loads in a fresh interpreter, on top of IPython with ``shell``."""
    start = "from IPython.core.interactiveshell import InteractiveShell; shell = InteractiveShell.instance()"
    program = f"""
import json, sys
{start if shell else ""}
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("code", "shell"), [(IMPORT, False), (LOAD, True)], ids=["import", "load_ext"])
def test_nothing_slow_is_loaded(code: str, shell: bool) -> None:
    modules = loaded(code, shell=shell)
    assert "nbcloud" in modules
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()


def test_import_loads_only_the_door() -> None:
    assert {module for module in loaded(IMPORT, shell=False) if module.startswith("nbcloud")} == {"nbcloud"}

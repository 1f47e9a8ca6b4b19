"""The peers' own virtual environment, and what is installed in each."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-bench"

# The same releases as the product's, so that a difference is the contender's and not its foundation's.
_SAME = (
    "dask",
    "distributed",
    "ipykernel",
    "ipython",
    "ipywidgets",
    "jupyter_client",
    "numpy",
    "pyzmq",
    "tornado",
)
_PEERS = ("ipyparallel", "afar")
_LIST = (
    "import json; from importlib.metadata import distributions; "
    "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in distributions()}))"
)


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is made at the first call (half a minute)."""
    wanted = "\n".join([*(f"{name}=={version(name)}" for name in _SAME), *_PEERS])
    stamp = PEERS / "requirements.txt"
    python = PEERS / "bin" / "python"
    if not (stamp.exists() and stamp.read_text() == wanted and python.exists()):
        print(f"making {PEERS.name} for the peers: {', '.join(_PEERS)} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted.split("\n")], check=True)
        stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """What of interest ``python`` has installed."""
    listing = subprocess.run([python, "-c", _LIST], check=True, capture_output=True, text=True).stdout
    installed = json.loads(listing)
    names = [name.replace("_", "-") for name in (*_SAME, *_PEERS, "nbcloud", "cloudpickle")]
    return {name: installed[name] for name in names if name in installed}

"""Where runs are imported from: an address of a server, or a folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbcloud.errors import UsageError
from nbcloud.runs.mirror.feed import SCHEME, shown

_SERVERS = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_EXAMPLE = "https://mlflow.example.com"
_SQLITE = b"SQLite format 3\0"


def source_of(text: str) -> tuple[str, Path | None]:
    """The address as MLflow takes it, and the folder, where it is one.

    Raises
    ------
    UsageError
        When it can be neither, or the folder has no runs; MLflow would make one there.
    """
    address = text.removeprefix(SCHEME)
    parts = urlsplit(address)
    if parts.scheme in _SERVERS:
        if not parts.hostname:
            raise UsageError(f"{text!r} names no host.", f"Write for example: {_EXAMPLE}")
        return address, None
    if parts.scheme == "databricks" or address == "databricks":
        return address, None
    if parts.scheme.partition("+")[0] in _DATABASES:
        raise UsageError(
            f"{shown(address)!r} is the database of a server, which only MLflow itself reads.",
            f"Serve it, and import from there: mlflow server --backend-store-uri {shown(address)}",
        )
    if not address or ("://" in address and parts.scheme != "file"):
        raise UsageError(f"{text!r} is no address of MLflow's.", f"Write for example: {_EXAMPLE}")
    folder = Path(unquote(parts.path) if parts.scheme == "file" else address).expanduser().absolute()
    _check_folder(folder, text)
    return folder.as_uri(), folder


def _check_folder(folder: Path, text: str) -> None:
    if not folder.exists():
        server = f"http://{text}" if ":" in text else _EXAMPLE
        raise UsageError(
            f"There is no folder {str(folder)!r}.",
            f"Name a folder that has runs of MLflow, or a server: {server}",
        )
    if folder.is_file():
        with folder.open("rb") as file:
            database = file.read(len(_SQLITE)) == _SQLITE
        raise UsageError(
            f"{folder} is a file, no folder of MLflow's.",
            f"Serve it, and import from there: mlflow server --backend-store-uri sqlite:///{folder}"
            if database
            else "Name the folder that has its runs, often called mlruns.",
        )
    if not any(folder.glob("*/meta.yaml")):
        inside = next((each for where in ("mlruns", "*/mlruns") for each in folder.glob(where)), None)
        near = f"Did you mean {inside}?" if inside else "Name the one in which each experiment has a folder."
        raise UsageError(f"{folder} has no experiment of MLflow's.", near)

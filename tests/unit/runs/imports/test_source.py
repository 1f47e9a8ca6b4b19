"""Where runs can be imported from."""

import pytest

from nbcloud.errors import UsageError
from nbcloud.runs.imports.source import source_of


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere", "There is no folder"),
        ("127.0.0.1:5000", "or a server: http://127.0.0.1:5000"),
        ("http://", "names no host"),
        ("ftp://host", "is no address of MLflow's"),
        ("", "is no address of MLflow's"),
        ("sqlite:///mlflow.db", "mlflow server --backend-store-uri sqlite:///mlflow.db"),
        (
            "postgresql+psycopg2://me:word@host/db",
            "mlflow server --backend-store-uri postgresql+psycopg2://host/db",
        ),
        ("mlflow.db", "mlflow server --backend-store-uri sqlite:///"),
        (".", "Did you mean"),
        ("mlruns", "has no experiment of MLflow's"),
    ],
)
def test_an_address_that_is_none_is_told(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0")
    (tmp_path / "mlruns").mkdir()
    with pytest.raises(UsageError) as told:
        source_of(text)
    assert said in str(told.value)
    assert "word" not in str(told.value)

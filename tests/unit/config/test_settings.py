"""Settings come from NBCLOUD_* at each call; what is wrong is named with the nearest that is right."""

from pathlib import Path

import pytest

from nbcloud.config import parse_bytes, parse_seconds, private_dir, settings
from nbcloud.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("1024", 1024),
        ("16GiB", 2**34),
        ("500 MB", 500_000_000),
        (" 1.5kib ", 1536),
        ("2TiB", 2**41),
        ("1TB", 10**12),
    ],
)
def test_sizes(text, nbytes):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e3", "1.2.3", "ten", "5 XB", "nan", "inf"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigError, match=r"is not a size\. Write for example"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("5min", 300), ("2 h", 7200), ("250ms", 0.25)]
)
def test_times(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "1y", "1h30m"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match=r"is not a length of time\. Write for example"):
        parse_seconds(text)


def test_a_change_of_the_environment_is_seen(monkeypatch, tmp_path):
    assert settings().cluster == "local"
    monkeypatch.setenv("NBCLOUD_CLUSTER", "gpu")
    monkeypatch.setenv("NBCLOUD_HOME_LIMIT", "5MB")
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(tmp_path))
    assert (settings().cluster, settings().home_limit, settings().data_dir) == ("gpu", 5_000_000, tmp_path)


def test_a_new_home_is_seen(monkeypatch, tmp_path):
    monkeypatch.delenv("NBCLOUD_DATA_DIR")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in settings().data_dir.parents


def test_an_unknown_variable_is_refused_also_when_it_comes_later(monkeypatch):
    settings()
    monkeypatch.setenv("NBCLOUD_CLUSTR", "gpu")
    with pytest.raises(
        ConfigError, match=r"NBCLOUD_CLUSTR is not a setting .* Did you mean NBCLOUD_CLUSTER\?"
    ):
        settings()


def test_a_bad_value_is_refused(monkeypatch):
    monkeypatch.setenv("NBCLOUD_SHOWN_LIMIT", "much")
    with pytest.raises(ConfigError, match="'much' is not a size"):
        settings()


def test_a_private_folder_and_its_missing_parents_are_this_users_alone(tmp_path):
    made = private_dir(tmp_path / "a" / "b" / "c")
    for folder in (made, made.parent, made.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    assert private_dir(made).stat().st_mode & 0o777 == 0o700
    assert isinstance(made, Path)


def test_preloads_are_names_of_modules(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert settings().preload == ()
    Path("nbcloud.toml").write_text('preload = ["pandas", "matplotlib.pyplot"]')
    assert settings().preload == ("pandas", "matplotlib.pyplot")
    monkeypatch.setenv("NBCLOUD_PRELOAD", "numpy, pandas,numpy")
    assert settings().preload == ("numpy", "pandas")
    for wrong in ("import os", "a-b", "os;sys", ".a", "class"):
        monkeypatch.setenv("NBCLOUD_PRELOAD", wrong)
        with pytest.raises(ConfigError, match="is no name of a module"):
            settings()

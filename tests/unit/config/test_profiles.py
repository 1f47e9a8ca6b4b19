"""Profiles come from nbcloud.toml, the project's before the user's; what is wrong is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbcloud.config import settings
from nbcloud.config.profiles import (
    ExistingProfile,
    KubernetesProfile,
    LocalProfile,
    Toleration,
    profile,
    profiles,
)
from nbcloud.errors import ConfigError

GPU = """
cluster = "gpu"
home_limit = "2MiB"
data_dir = "records"

[profiles.gpu]
kind = "kubernetes"
namespace = "ml"
image_pull_secrets = ["registry"]
env = { OMP_NUM_THREADS = 4 }
idle_timeout = "30min"

[profiles.gpu.workers]
gpus = 1
memory = "32GiB"
minimum = 0
maximum = 4
tolerations = [{ key = "gpu", operator = "Exists", effect = "NoSchedule" }]
secrets = { HF_TOKEN = "hub/token" }
volumes = [{ path = "/data", claim = "datasets", read_only = true }]
price = 2.5

[profiles.gpu.groups.cpu]
cpus = 8

[profiles.big]
kind = "local"
workers = 2
memory = "4GiB"
resources = { GPU = 2 }

[profiles.lab]
kind = "existing"
address = "tcp://lab:8786"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, in whose subfolder one works."""
    folder = tmp_path / "project"
    (folder / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(folder / "notebooks")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return folder


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nbcloud.toml").write_text(text)


def test_every_kind_is_read(project: Path) -> None:
    write(project, GPU)
    gpu = profile("gpu")
    assert isinstance(gpu, KubernetesProfile)
    assert (gpu.namespace, gpu.image_pull_secrets, gpu.idle_timeout) == ("ml", ("registry",), 1800)
    assert gpu.env == {"OMP_NUM_THREADS": "4"}
    assert list(gpu.all_groups()) == ["default", "cpu"]
    assert gpu.workers.memory == 2**35
    assert gpu.workers.tolerations == (Toleration("gpu", "Exists", "", "NoSchedule"),)
    assert gpu.workers.is_adaptive
    assert not gpu.groups["cpu"].is_adaptive
    big, lab = profile("big"), profile("lab")
    assert isinstance(big, LocalProfile)
    assert (big.workers, big.memory, big.resources) == (2, 2**32, {"GPU": 2.0})
    assert isinstance(lab, ExistingProfile)
    assert lab.address == "tcp://lab:8786"
    assert profile("nosuch") is None
    assert profiles()["gpu"][1] == str(project / "nbcloud.toml")


def test_settings_are_read_too_and_variables_go_over_them(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NBCLOUD_DATA_DIR")
    write(project, GPU)
    found = settings()
    assert (found.cluster, found.home_limit, found.data_dir) == ("gpu", 2**21, project / "records")
    monkeypatch.setenv("NBCLOUD_HOME_LIMIT", "1MiB")
    assert settings().home_limit == 2**20
    write(project, GPU.replace('cluster = "gpu"', 'cluster = "lab" # longer'))
    assert settings().cluster == "lab"


def test_the_projects_file_goes_before_the_users(project: Path, tmp_path: Path) -> None:
    write(tmp_path / "home" / "nbcloud", '[profiles.big]\nkind = "local"\n[profiles.own]\nkind = "local"\n')
    write(project, GPU)
    assert profile("big") == LocalProfile(workers=2, memory=2**32, resources={"GPU": 2.0})
    assert profile("own") == LocalProfile()


def test_a_variable_overrides_one_value(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, GPU)
    monkeypatch.setenv("NBCLOUD_PROFILES__GPU__IMAGE", "registry/team/image:2")
    monkeypatch.setenv("NBCLOUD_PROFILES__GPU__WORKERS__MAXIMUM", "9")
    monkeypatch.setenv("NBCLOUD_PROFILES__GPU__ENV__OMP_NUM_THREADS", "1")
    gpu = profile("gpu")
    assert isinstance(gpu, KubernetesProfile)
    assert (gpu.image, gpu.workers.most, gpu.env) == (
        "registry/team/image:2",
        9,
        {"OMP_NUM_THREADS": "1"},
    )
    assert settings().cluster == "gpu"
    monkeypatch.setenv("NBCLOUD_PROFILES__GPPU__IMAGE", "x")
    with pytest.raises(
        ConfigError, match=r"NBCLOUD_PROFILES__GPPU__IMAGE names no profile\. Did you mean gpu"
    ):
        profiles()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[profiles.a]\nkind = 'kubernetes'\nimgae = 'x'",
            r"profiles\.a has an unknown key 'imgae'.*image\?",
        ),
        ("[profiles.a]\nkind = 'kubernets'", r"profiles\.a has a kind 'kubernets'.* Did you mean kubernetes"),
        ("[profiles.a]\nworkers = 1", r"profiles\.a lacks 'kind'\. There are: existing, kubernetes, local"),
        ("[profiles.a]\nkind = 'existing'", r"profiles\.a lacks 'address'"),
        ("[profiles.a]\nkind = 'local'\nworkers = 'two'", r"a\.workers must be a whole number, and is 'two'"),
        ("[profiles.a]\nkind = 'local'\nworkers = true", r"a\.workers must be a whole number"),
        ("[profiles.a]\nkind = 'local'\nmemory = 'much'", r"a\.memory: 'much' is not a size.*512MiB"),
        ("[profiles.a]\nkind = 'kubernetes'\nimage_pull_secrets = 'x'", r"must be a list.*Write \['x'\]"),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = 3", r"a\.workers must be a table"),
        (
            "[profiles.a]\nkind = 'kubernetes'\nscheduler = { service = 'LoadBalancr' }",
            r"service can't be 'LoadBalancr'.*LoadBalancer",
        ),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = { minimum = 3, maximum = 1 }", "from 3 to 1 workers"),
        (
            "[profiles.a]\nkind = 'kubernetes'\nvolumes = [{ path = '/x' }]",
            "'/x' must have exactly one source",
        ),
        (
            "[profiles.a]\nkind = 'kubernetes'\nsecrets = { A = 'plain' }",
            "secret of A can't be 'plain'.*SECRET/KEY",
        ),
        ("profiles = 3", r"profiles must be tables"),
        ("a = 1\n[profiles\n", r"nbcloud\.toml is not TOML: .*line 2"),
        ("clustr = 'x'", r"unknown key 'clustr'.*Did you mean cluster"),
        ("home_limit = true", "home_limit can't be True"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(project: Path, text: str, words: str) -> None:
    write(project, text)
    with pytest.raises(ConfigError, match=words):
        settings() and profiles()

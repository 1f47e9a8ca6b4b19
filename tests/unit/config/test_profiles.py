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
    read_all,
    readable,
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
    assert profile("gpu") == gpu
    assert profile("lab") is not None
    with pytest.raises(ConfigError, match="GPPU__IMAGE names no profile"):
        profile("gppu")


@pytest.mark.parametrize(
    ("way", "text", "place", "value"),
    [
        ("ENV__NEW_ONE", "4", "env", {"OMP_NUM_THREADS": "4", "NEW_ONE": "4"}),
        ("ENV__DASK_DISTRIBUTED__COMM__RETRY", "0x3", "env", {"DASK_DISTRIBUTED__COMM__RETRY": "0x3"}),
        ("ENV__lower", "true", "env", {"lower": "true"}),
        ("WORKERS__NODE_SELECTOR__CLOUD_GPU", "b", "workers.node_selector", {"cloud/gpu": "b"}),
        ("WORKERS__SECRETS__HF_TOKEN", "a/b", "workers.secrets", {"HF_TOKEN": "a/b"}),
        ("GROUPS__CPU__MEMORY", "1073741824", "groups.cpu.memory", 2**30),
        ("IMAGE", "3", "image", "3"),
        ("SHUTDOWN_ON_CLOSE", "true", "shutdown_on_close", True),
    ],
)
def test_a_variable_keeps_the_spelling_of_free_keys(
    project: Path, monkeypatch: pytest.MonkeyPatch, way: str, text: str, place: str, value: object
) -> None:
    write(project, GPU.replace("gpus = 1", 'gpus = 1\nnode_selector = { "cloud/gpu" = "a" }'))
    monkeypatch.setenv(f"NBCLOUD_PROFILES__GPU__{way}", text)
    found: object = profile("gpu")
    for key in place.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == (found | value if isinstance(value, dict) and isinstance(found, dict) else value)
    monkeypatch.setenv("NBCLOUD_PROFILES__GPU__KIND__X", "1")
    with pytest.raises(ConfigError, match="goes through 'kind', which is a value"):
        profile("gpu")


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("memory", "4294967296", 2**32),
        ("memory", "9007199254740993", 2**53 + 1),
        ("memory", "1e9", 10**9),
        ("memory", "'4 GiB'", 2**32),
        ("idle_timeout", "1000000", 1e6),
        ("idle_timeout", "0.25", 0.25),
    ],
)
def test_numbers_are_exact(project: Path, key: str, written: str, read: float) -> None:
    write(project, f"[profiles.a]\nkind = 'local'\n{key} = {written}")
    assert getattr(profile("a"), key) == read


def test_a_mistake_is_that_of_its_profile_only(project: Path) -> None:
    write(project, GPU + "\n[profiles.bad]\nkind = 'locl'\n[profiles.worse]\nkind = 'local'\nworkers = 'x'")
    assert list(readable()) == ["gpu", "big", "lab"]
    assert profile("big") is not None
    assert profile("nosuch") is None
    for name in ("bad", "worse"):
        with pytest.raises(ConfigError, match=f"profiles.{name}"):
            profile(name)
    assert [str(error).partition("profiles.")[2].split()[0] for error in read_all()[1]] == [
        "bad",
        "worse.workers",
    ]
    with pytest.raises(ConfigError, match=r"profiles\.bad has(.|\n)*profiles\.worse"):
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
        ("[profiles]\na = 3", r"profiles\.a must be a table, and is 3\. Write \[profiles\.a\]"),
        ("[profiles.a]\nkind = 'kubernetes'\nimage = 3", r"a\.image must be a text, and is 3\. Write \"3\""),
        ("[profiles.a]\nkind = 'kubernetes'\nservice_account = true", r"must be a text.*Write \"true\""),
        (
            "[profiles.a]\nkind = 'kubernetes'\nimage_pull_policy = 'x'",
            r"There are: Always, IfNotPresent, Never\.",
        ),
        ("[profiles.a]\nkind = 'local'\nprice = -1", r"a: price can't be -1\. Write an amount"),
        ("[profiles.a]\nkind = 'local'\nworkers = 0", r"a: workers must be at least 1, and is 0"),
        ("[profiles.a]\nkind = 'local'\nmemory = 4", r'memory is 4 bytes, .* 64MiB\. .*unit: "4GiB"'),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = { price = nan }", r"a\.workers: price can't be nan"),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = { minimum = -1 }", "minimum can't be negative"),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = { threads = 0 }", "threads must be at least 1"),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = { cpus = nan }", "cpus must be more than 0"),
        ("[profiles.a]\nkind = 'kubernetes'\nworkers = { gpus = -1 }", "gpus can't be negative"),
        (
            "[profiles.a]\nkind = 'kubernetes'\nscheduler = { memory = '4' }",
            r"a\.scheduler: memory is 4 bytes",
        ),
        (
            "[profiles.a]\nkind = 'kubernetes'\nnamespace = 'My_Team'",
            r"a\.namespace can't be 'My_Team'.*small",
        ),
        ("[profiles.a]\nkind = 'kubernetes'\ngroups = { Big = {} }", r"groups has 'Big'.* a letter first"),
        (
            "[profiles.a]\nkind = 'kubernetes'\nvolumes = [{ path = 'x', claim = 'y' }]",
            "path 'x' of a volume is not absolute. Write '/x'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(project: Path, text: str, words: str) -> None:
    write(project, text)
    with pytest.raises(ConfigError, match=words):
        settings() and profiles()

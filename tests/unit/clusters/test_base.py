from __future__ import annotations

import json
import pickle
import ssl
import subprocess
import sys

import pytest

from nbcloud.clusters.base import ClusterInfo, TLSFiles, check_name
from nbcloud.errors import UsageError, VersionSkew

INFO = ClusterInfo(
    name="gpu",
    id="0a1b2c3d",
    kind="local",
    address="tls://127.0.0.1:1234",
    tls=TLSFiles("/x/ca.pem", "/x/cert.pem", "/x/key.pem"),
    pid=12,
    started="boot/77",
    created=1.5,
    host="here",
    directory="/x",
    workers=2,
    threads=1,
    memory=2**30,
    idle_timeout=3600.0,
    options={"workers": 2, "resources": {"GPU": 1}},
)


@pytest.mark.parametrize("name", ["local", "gpu-1", "a.b_c", "7", "x" * 64])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "-x", ".x", "a b", "é", "x" * 65, "a\n", None, 3]
)
def test_bad_names_are_refused_in_words(name: object) -> None:
    with pytest.raises(UsageError, match=r"can't be the name of a cluster. Use up to 64 letters"):
        check_name(name)  # type: ignore[arg-type]


def test_info_survives_json_and_pickle() -> None:
    assert ClusterInfo.from_json(INFO.to_json()) == INFO
    assert pickle.loads(pickle.dumps(INFO)) == INFO
    assert hash(INFO) == hash(ClusterInfo.from_json(INFO.to_json()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"name": "x"}',
        '{"format": 1}',
        '{"format": "1", "name": "x"}',
        json.dumps({**json.loads(INFO.to_json()), "pid": "12"}),
        json.dumps({**json.loads(INFO.to_json()), "tls": {"ca": "x"}}),
        json.dumps({**json.loads(INFO.to_json()), "tls": "x"}),
        json.dumps({**json.loads(INFO.to_json()), "address": None}),
    ],
)
def test_malformed_entries_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError):
        ClusterInfo.from_json(text)


def test_an_entry_of_a_newer_nbcloud_says_so() -> None:
    text = json.dumps({**json.loads(INFO.to_json()), "format": 2})
    with pytest.raises(VersionSkew, match=r"A newer nbcloud registered the cluster 'gpu'. Upgrade nbcloud"):
        ClusterInfo.from_json(text)


def test_without_tls_there_is_no_security() -> None:
    assert ClusterInfo(name="x", id="1", kind="existing", address="tcp://h:1").security() is None


def test_security_demands_encryption_for_every_role() -> None:
    security = INFO.security()
    assert security.require_encryption is True
    for role in ("client", "worker", "scheduler"):
        config = security.get_tls_config_for_role(role)
        assert (config["ca_file"], config["cert"], config["key"]) == (
            "/x/ca.pem",
            "/x/cert.pem",
            "/x/key.pem",
        )
    assert security.tls_min_version >= ssl.TLSVersion.TLSv1_2


def test_the_clients_side_imports_neither_dask_nor_distributed() -> None:
    code = (
        "import sys\n"
        "from nbcloud.clusters import base, connect, daemon, existing, local, process, registry, wire\n"
        "print({name.split('.')[0] for name in sys.modules} & {'dask', 'distributed', 'cryptography'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

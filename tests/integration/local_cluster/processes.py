"""What the tests of local clusters ask of their processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import distributed

from nbcloud.clusters import connect
from nbcloud.clusters.base import ClusterInfo

Wait = Callable[..., Any]
Run = Callable[[str], "subprocess.Popen[str]"]

# Sent to the cluster by value: its workers can't import this file.
spawn_child = eval("lambda: __import__('subprocess').Popen(['sleep', '600'], start_new_session=True).pid")


def worker_pids(info: ClusterInfo) -> set[int]:
    return {worker["pid"] for worker in connect.status(info)["workers"]}


def line_of(other: subprocess.Popen[str]) -> Any:
    assert other.stdout is not None
    return json.loads(other.stdout.readline())


def client_of(info: ClusterInfo) -> distributed.Client:
    return distributed.Client(info.address, security=info.security(), set_as_default=False)

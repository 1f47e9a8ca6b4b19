"""One round trip of Dask's own comm, over TLS, to a handler on a Scheduler in another process.

This plus a bare kernel's cell is the floor under a no-op cell: nothing that asks a scheduler can be quicker.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from distributed import Scheduler
from distributed.comm import connect
from distributed.security import Security

from benchmarks.environments import ROOT

_FIELDS = ("tls_ca_file", "tls_client_key", "tls_client_cert", "tls_scheduler_key", "tls_scheduler_cert")


class Echo:
    """A scheduler that only echoes, and one open comm to it."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._loop = asyncio.new_event_loop()
        security = Security.temporary()
        secrets = {field: getattr(security, field) for field in _FIELDS}
        self._scheduler = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.floor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "echo.log").open("w"),
            text=True,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self._scheduler.stdin is not None
        assert self._scheduler.stdout is not None
        self._scheduler.stdin.write(json.dumps(secrets) + "\n")
        self._scheduler.stdin.flush()
        address = self._scheduler.stdout.readline().strip()
        arguments = security.get_connection_args("client")
        self._comm = self._loop.run_until_complete(connect(address, **arguments))

    def seconds(self) -> float:
        return self._loop.run_until_complete(self._once())

    async def _once(self) -> float:
        start = time.perf_counter()
        await self._comm.write({"op": "echo_back", "value": 1, "reply": True})
        answer = await self._comm.read()
        elapsed = time.perf_counter() - start
        assert answer == 1, answer
        return elapsed

    def close(self) -> None:
        self._comm.abort()
        self._loop.close()
        self._scheduler.terminate()
        self._scheduler.wait(timeout=10)


async def _echo_back(value: int) -> int:
    return value


async def _serve() -> None:
    security = Security(require_encryption=True, **json.loads(sys.stdin.readline()))
    async with Scheduler(
        host="127.0.0.1", protocol="tls", security=security, dashboard_address="127.0.0.1:0"
    ) as scheduler:
        scheduler.handlers["echo_back"] = _echo_back
        print(scheduler.address, flush=True)
        await scheduler.finished()


if __name__ == "__main__":
    asyncio.run(_serve())

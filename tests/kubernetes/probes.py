"""Probes of containers. Success is looked for often, failures are counted in the pace that the probe asks for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

Run = Callable[[list[str]], Awaitable[int]]
EAGER_PERIOD = 0.2


async def succeeds(probe: dict[str, Any], address: str, ports: dict[str, int], run: Run) -> str:
    """Probe once: an empty text, or what went wrong."""
    try:
        async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
            if "exec" in probe:
                code = await run(probe["exec"]["command"])
                return f"command exited with {code}" if code else ""
            where = probe.get("tcpSocket") or probe["httpGet"]
            host = where.get("host") or address
            port = ports[where["port"]] if isinstance(where["port"], str) else where["port"]
            if "tcpSocket" in probe:
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return ""
            url = f"{where.get('scheme', 'http').lower()}://{host}:{port}{where.get('path', '/')}"
            async with aiohttp.ClientSession() as session, session.get(url, ssl=False) as response:
                return (
                    "" if response.status < 400 else f"HTTP probe failed with statuscode: {response.status}"
                )
    except KeyError as error:
        return f"couldn't find port: {error}"
    except (OSError, aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"


async def watch(
    probe: dict[str, Any], once: Callable[[], Awaitable[str]], tell: Callable[[bool, str], None], eager: bool
) -> None:
    """Probe for ever, and tell each change: true with success, false when failureThreshold failures came in a row."""
    period, threshold = probe.get("periodSeconds", 10), probe.get("failureThreshold", 3)
    failures, counted, good = 0, 0.0, False
    if not eager:
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    while True:
        why = await once()
        if not why:
            failures = 0
            if not good:
                good = True
                tell(True, "")
        elif time.monotonic() - counted >= period:
            failures, counted = failures + 1, time.monotonic()
            if failures >= threshold:
                good = False
                tell(False, why)
        await asyncio.sleep(EAGER_PERIOD if eager and not good else period)

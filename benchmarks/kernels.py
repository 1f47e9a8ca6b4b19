"""What it takes to have a kernel: start, one cell, stop; side by side, in interleaved rounds.

``python -m benchmarks.kernels [--rounds 20] [--tail 200]``. Linux only. Times are in milliseconds: medians,
and the longest; ``processor`` is what the kernel, its template and the process that has it take together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from nbcloud.sessions.host.process import KernelProcess
from nbcloud.sessions.host.run import frames_of
from nbcloud.sessions.host.template import Template
from nbcloud.sessions.messages import frames

PRELOAD = ("pandas", "matplotlib.pyplot")
CELLS = {
    "trivial": "print(1 + 1)",
    "heavy": (
        "import pandas, matplotlib.pyplot as plt\n"
        "plt.plot([1, 2])\n"
        "pandas.DataFrame({'a': [1, 2]}).describe()"
    ),
}


class Stock:
    """ipykernel as jupyter_client's users have it, nbclient and papermill among them."""

    name = "bare ipykernel"

    async def start(self) -> None:
        self._manager = AsyncKernelManager(kernel_name="python3")
        await self._manager.start_kernel()
        self._client = self._manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=60)

    async def run(self, code: str) -> None:
        await self._client.execute_interactive(code, output_hook=lambda _: None, timeout=60)

    async def stop(self) -> None:
        self._client.stop_channels()
        await self._manager.shutdown_kernel()

    @property
    def template(self) -> int:
        return 0


class Hosted:
    """A kernel as a worker of nbcloud's has it.

    Parameters
    ----------
    name : str
    template : Template or None
        None: each is started cold.
    """

    def __init__(self, name: str, directory: Path, template: Template | None) -> None:
        self.name = name
        self._directory, self._template, self._count = directory, template, 0

    async def start(self) -> None:
        self._count += 1
        directory = self._directory / f"{self.name}-{self._count}".replace(" ", "-")
        directory.mkdir()
        self._ended: asyncio.Queue[int] = asyncio.Queue()
        self._kernel = KernelProcess(directory, self._ended.put_nowait, self._template)
        await self._kernel.start()

    async def warm_up(self) -> None:
        """Have the template ready."""
        while True:
            await self.start()
            forked = self._kernel.forked
            await self.stop()
            if forked or self._template is None:
                return
            if self._template.refusal:
                raise SystemExit(self._template.refusal)

    async def run(self, code: str) -> None:
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        request = frames_of(frames("execute_request", {**content, "user_expressions": {}}))
        self._kernel.send(request)
        cell, awaited = json.loads(request.header)["msg_id"], {"status", "execute_reply"}
        while awaited:
            for message, header, parent in await self._kernel.messages():
                if parent.get("msg_id") == cell:
                    awaited.discard(header["msg_type"])
                    assert header["msg_type"] != "error", message.content

    async def stop(self) -> None:
        self._kernel.shut_down()
        assert await self._ended.get() == 0
        self._kernel.close()

    @property
    def template(self) -> int:
        return self._template.pid if self._template is not None else 0


@dataclass
class Samples:
    """What one contender took in one row, each in seconds."""

    start: list[float] = field(default_factory=list)
    cell: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def _spent(template: int) -> float:
    """Processor seconds of this process, of its children that have ended, and of a template."""
    seconds = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    if template:
        times = Path(f"/proc/{template}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        seconds += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return seconds


async def _once(contender: Any, code: str, samples: Samples) -> None:
    spent, begun = _spent(contender.template), time.perf_counter()
    await contender.start()
    started = time.perf_counter()
    await contender.run(code)
    ran = time.perf_counter()
    await contender.stop()
    stopped = time.perf_counter()
    samples.start.append(started - begun)
    samples.cell.append(ran - started)
    samples.stop.append(stopped - ran)
    samples.total.append(stopped - begun)
    samples.processor.append(_spent(contender.template) - spent)


def _table(row: str, taken: dict[str, Samples]) -> None:
    base = next(reversed(taken.values()))
    print(f"\n| {row} | start | cell | stop | together (longest) | processor | ratio | ratio of processor |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, samples in taken.items():
        start, cell, stop, total, processor = (
            1000 * statistics.median(each) for each in vars(samples).values()
        )
        ratio = statistics.median(samples.total) / statistics.median(base.total)
        busy = statistics.fmean(samples.processor) / statistics.fmean(base.processor)
        longest = f"{1000 * max(samples.total):.0f}"
        print(f"| {name} | {start:.0f} | {cell:.0f} | {stop:.0f} | {total:.0f} ({longest}) ", end="")
        print(f"| {processor:.0f} | {ratio:.1f} | {busy:.1f} |")


async def _measure(rounds: int, tail: int, directory: Path) -> None:
    templates = [Template(directory, ()), Template(directory, PRELOAD)]
    cold = Hosted("nbcloud, cold", directory, None)
    forked = Hosted("nbcloud, forked", directory, templates[0])
    preloaded = Hosted("nbcloud, forked with preload", directory, templates[1])
    contenders = [Stock(), cold, forked, preloaded]
    for each in (forked, preloaded):
        await each.warm_up()
    for row, code in CELLS.items():
        taken = {each.name: Samples() for each in contenders}
        for _ in range(rounds):
            for each in contenders:
                await _once(each, code, taken[each.name])
        _table(f"{row}, {rounds} rounds", taken)
    for each in (forked, preloaded):
        samples = Samples()
        for _ in range(tail):
            await _once(each, CELLS["trivial"], samples)
        _table(f"{tail} in a row", {each.name: samples})
    for template in templates:
        template.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tail", type=int, default=200)
    options = parser.parse_args(arguments)
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    with tempfile.TemporaryDirectory(prefix="nbk-", dir="/tmp") as directory:
        asyncio.run(_measure(options.rounds, options.tail, Path(directory)))


if __name__ == "__main__":
    main()

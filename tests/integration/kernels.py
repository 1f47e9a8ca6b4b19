"""Kernels as a worker has them, without a cluster around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from nbcloud.sessions.host.process import KernelProcess
from nbcloud.sessions.host.run import frames_of
from nbcloud.sessions.host.template import Template
from nbcloud.sessions.messages import frames

LIMIT = 60.0


class Kernel:
    """A kernel process, and what its cells say."""

    def __init__(self, directory: Path, template: Template | None) -> None:
        self.codes: asyncio.Queue[int] = asyncio.Queue()
        self.process = KernelProcess(directory, self.codes.put_nowait, template)

    def send(self, code: str) -> str:
        """Have a cell run; returns its message's id."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        request = frames_of(frames("execute_request", {**content, "user_expressions": {}}))
        self.process.send(request)
        return str(json.loads(request.header)["msg_id"])

    async def run(self, code: str) -> list[tuple[str, dict[str, Any]]]:
        """Run a cell; returns types and contents of all that it says."""
        cell, said = self.send(code), list[tuple[str, dict[str, Any]]]()
        async with asyncio.timeout(LIMIT):
            while not {"status", "execute_reply"} <= {kind for kind, _ in said}:
                said += [
                    (header["msg_type"], json.loads(message.content))
                    for message, header, parent in await self.process.messages()
                    if parent.get("msg_id") == cell
                ]
        return said

    async def text(self, code: str) -> str:
        """What a cell prints."""
        said = await self.run(code)
        errors = [content for kind, content in said if kind == "error"]
        assert errors == []
        return "".join(content["text"] for kind, content in said if kind == "stream")

    async def value(self, code: str) -> Any:
        """What an expression is, by way of JSON."""
        return json.loads(await self.text(f"import json; print(json.dumps({code}))"))

    async def end(self) -> int:
        """Wait for its end; returns the exit code."""
        async with asyncio.timeout(LIMIT):
            return await self.codes.get()


class Worker:
    """Starts kernels, and ends what is left of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kernels: list[Kernel] = []
        self.templates: list[Template] = []

    def template(self, *preload: str) -> Template:
        """A template, of which nothing runs before the first kernel."""
        self.templates.append(Template(self.directory, preload))
        return self.templates[-1]

    async def kernel(self, template: Template | None = None) -> Kernel:
        """Start a kernel."""
        directory = self.directory / str(len(self.kernels))
        directory.mkdir()
        kernel = Kernel(directory, template)
        await kernel.process.start()
        self.kernels.append(kernel)
        return kernel

    async def forked(self, template: Template) -> Kernel:
        """A kernel that was forked; those before the template was ready are not."""
        async with asyncio.timeout(LIMIT):
            while True:
                kernel = await self.kernel(template)
                if kernel.process.forked:
                    return kernel
                assert template.refusal == ""

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        for kernel in self.kernels:
            kernel.process.close()
        for template in self.templates:
            template.close()


def with_worker(directory: Path, scenario: Any) -> None:
    """Run a coroutine function that is given a worker."""

    async def main() -> None:
        with Worker(directory) as worker:
            work: Coroutine[Any, Any, None] = scenario(worker)
            await work

    asyncio.run(main())

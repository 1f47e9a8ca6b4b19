"""A notebook told to a terminal while a kernel of its own runs it."""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

from nbcloud.commands.ending import asked_to_end
from nbcloud.errors import RemoteError, RunLost
from nbcloud.runs.outputs import OutputComposer, TextFlow, compose
from nbcloud.wording import raised_text

_READY_SECONDS = 60
_TICK = 1.0
_WIDTH = 100


class _Spec(KernelSpecManager):
    """The kernel of this interpreter, whatever kernels Jupyter knows here."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python", interrupt_mode="signal")


@contextlib.contextmanager
def notebook_kernel(notebook: Path, environment: dict[str, str]) -> Iterator[NotebookKernel]:
    """A kernel on this machine, as Jupyter would start it for a notebook at that path.

    Parameters
    ----------
    environment : dict
        Variables of its own, beside those of this process.
    """
    sockets = Path(tempfile.mkdtemp(prefix="nbc-"))
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=_Spec())
    manager.connection_file = str(sockets / "kernel.json")
    if os.name == "posix":
        manager.transport = "ipc"
        manager.ip = str(sockets / "k")
    environment = {**os.environ, "JPY_SESSION_NAME": str(notebook), **environment}
    try:
        with (sockets / "log").open("wb") as log:
            manager.start_kernel(env=environment, cwd=str(notebook.parent), stdout=log, stderr=log)
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=_READY_SECONDS)
        yield NotebookKernel(manager, client, sockets / "log")
    finally:
        with asked_to_end(signal.SIG_IGN):
            if manager.has_kernel:
                manager.shutdown_kernel()
            shutil.rmtree(sockets, ignore_errors=True)


class NotebookKernel:
    """The notebook's kernel.

    Parameters
    ----------
    manager : KernelManager
    client : BlockingKernelClient
        Ready.
    log : Path
        What the process itself writes.
    """

    def __init__(self, manager: KernelManager, client: BlockingKernelClient, log: Path) -> None:
        self._manager = manager
        self._client = client
        self._log = log

    def execute(self, code: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Run a cell; yields what the kernel says until it is done: request, message type and content."""
        request = self._client.execute(code, allow_stdin=False)
        yield request, "asked", {}
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=_TICK)
            except queue.Empty:
                if not self._manager.is_alive():
                    said = self._log.read_text(errors="replace").strip()
                    raise RunLost(f"The notebook's kernel ended, and wrote: {said or 'nothing'}") from None
                continue
            parent = message["parent_header"].get("msg_id", "")
            if parent == request and message["content"].get("execution_state") == "idle":
                return
            yield parent, message["msg_type"], message["content"]


class Teller:
    """Tells a notebook to a terminal while it runs, and keeps its outputs.

    Parameters
    ----------
    kernel : NotebookKernel
    folder : Path
        Where figures go.
    """

    def __init__(self, kernel: NotebookKernel, folder: Path) -> None:
        self._kernel = kernel
        self._folder = folder
        self._figures: list[Path] = []
        self._cells: dict[str, int] = {}
        self._outputs: dict[int, OutputComposer] = {}
        self._terminal = sys.stdout.isatty()

    def tell(self, notebook: nbformat.NotebookNode) -> list[Path]:
        """Run all cells, and give the notebook their outputs; returns the figures' files."""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                self._prose(cell.source)
            else:
                self._code(cell, len(self._outputs) + 1)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                outputs = self._outputs[cell.execution_count].outputs()
                cell.outputs = [nbformat.from_dict(output) for output in outputs]
        return self._figures

    def _prose(self, markdown: str) -> None:
        width = min(_WIDTH, shutil.get_terminal_size().columns)
        for paragraph in markdown.split("\n\n"):
            heading = re.fullmatch(r"#+ (.*)", paragraph)
            if heading is None:
                print(textwrap.fill(paragraph, width, break_on_hyphens=False))
            elif self._terminal:
                print(f"\x1b[1m{heading[1]}\x1b[0m")
            else:
                print(heading[1], "-" * len(heading[1]), sep="\n")
        print(flush=True)

    def _code(self, cell: nbformat.NotebookNode, number: int) -> None:
        prompt = f"In [{number}]: "
        for index, line in enumerate(cell.source.splitlines()):
            print(f"{prompt if index == 0 else '...: '.rjust(len(prompt))}{line}", flush=True)
        cell.execution_count = number
        self._outputs[number] = OutputComposer()
        flow = TextFlow(self._terminal)
        for parent, kind, content in self._kernel.execute(cell.source):
            source = self._cells.setdefault(parent, number) if kind == "asked" else self._cells.get(parent)
            if source is None:
                continue
            self._outputs[source].add(kind, content)
            shown = "display_data" if kind == "update_display_data" else kind  # a terminal takes nothing back
            text = "".join(flow.add(output) for output in compose([(shown, content, {})]))
            print(text if source == number else _of_earlier(source, text), end="", flush=True)
            self._keep_figure(content)
            if kind == "error" and "raises-exception" not in cell.metadata.get("tags", ()):
                what = raised_text(content["ename"], content["evalue"])
                raise RemoteError(f"Cell {number} failed: {what}", **content)
        print(flush=True)

    def _keep_figure(self, content: dict[str, Any]) -> None:
        image = content.get("data", {}).get("image/png")
        if image:
            path = self._folder / f"figure-{len(self._figures) + 1}.png"
            path.write_bytes(base64.b64decode(image))
            self._figures.append(path)
            print(f"  saved as {path}", flush=True)


def _of_earlier(number: int, text: str) -> str:
    return "".join(f"  [{number}] {line}" for line in text.splitlines(keepends=True))

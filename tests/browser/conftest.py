"""A real JupyterLab in a real Chromium; its kernels use a real local cluster.

A test opens a notebook, runs cells through JupyterLab's own commands, and looks at the page and at the
notebook's model. Pictures of the page lie in ``lab0/notebooks/pictures`` of pytest's temporary directory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from nbcloud.clusters.base import ClusterInfo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

_CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
_LIMIT = 60.0
"""Seconds after which what a page should show counts as missing."""

# What the tests do in the page, with JupyterLab's own objects.
_IN_PAGE = """
window.lab = {
  runs: {},
  isReady: false,
  get panel() { return jupyterapp.shell.currentWidget; },
  async open(path) {
    this.isReady = false;
    this.runs = {};
    await jupyterapp.restored;
    await jupyterapp.commands.execute('docmanager:open', {path});
    while (this.panel?.context?.path !== path) await new Promise(done => setTimeout(done, 20));
    await this.panel.context.ready;
    await this.panel.revealed;
    await this.panel.sessionContext.ready;
    await this.panel.sessionContext.session.kernel.info;
    this.isReady = true;
  },
  cell(index) { return this.panel.content.widgets[index]; },
  // A new cell at the end; the empty one of a new notebook is used first.
  add(source) {
    const cells = this.panel.content.model.sharedModel;
    const last = cells.cells.length - 1;
    if (last >= 0 && cells.getCell(last).getSource() === '') cells.getCell(last).setSource(source);
    else cells.insertCell(last + 1, {cell_type: 'code', source, metadata: {}});
    const index = cells.cells.length - 1;
    this.cell(index).node.dataset.number = index;
    return index;
  },
  start(index) {
    const notebook = this.panel.content;
    notebook.deselectAll();
    notebook.activeCellIndex = index;
    this.runs[index] = 'running';
    jupyterapp.commands.execute('notebook:run-cell').then(
      () => { this.runs[index] = 'done'; },
      error => { this.runs[index] = `failed: ${error}`; }
    );
  },
  outputs(index) { return this.cell(index).model.outputs.toJSON(); },
};
"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium is missing: apt-get update && apt-get install -y chromium")


@dataclass(frozen=True)
class Lab:
    """A JupyterLab server, its notebooks' folder, and the records of its kernels."""

    url: str
    token: str
    root: Path
    records: Path

    def request(self, method: str, path: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture(scope="session")
def lab(
    chromium: str,
    tmp_path_factory: pytest.TempPathFactory,
    local_cluster: ClusterInfo,
    local_cluster_dir: Path,
    wait_until: Callable[..., Any],
) -> Iterator[Lab]:
    """A server with private directories; its kernels find ``local_cluster``."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install 'nbcloud[dev]'")
    base = tmp_path_factory.mktemp("lab")
    root, runtime, records = base / "notebooks", base / "runtime", base / "records"
    root.mkdir()
    settings = base / "settings"
    for plugin, values in _SETTINGS.items():
        package, _, name = plugin.partition(":")
        (settings / package).mkdir(parents=True)
        (settings / package / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JUPYTER_CONFIG_DIR": str(base / "config"),
        "JUPYTER_DATA_DIR": str(base / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
        "IPYTHONDIR": str(base / "ipython"),
        "NBCLOUD_RUNTIME_DIR": str(local_cluster_dir),
        "NBCLOUD_DATA_DIR": str(records),
    }
    token = "for-the-tests"
    flags = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={root}",
    ]
    flags += [f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True"]
    flags += ["--LabApp.extension_manager=readonly"]
    with (base / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *flags],
            env=environment,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        facts = json.loads(wait_until(lambda: _facts(runtime, server), 60, "the JupyterLab server's start"))
        yield Lab(facts["url"], token, root, records)
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _facts(runtime: Path, server: subprocess.Popen[bytes]) -> str:
    if server.poll() is not None:
        pytest.fail(f"JupyterLab ended with code {server.returncode}; see server.log beside {runtime}")
    file = runtime / f"jpserver-{server.pid}.json"
    text = file.read_text() if file.exists() else ""
    return text if text.endswith("}") else ""


@pytest.fixture(scope="package")
def browser(chromium: str, lab: Lab) -> Iterator[Browser]:
    """Ends with these tests: Playwright keeps an event loop in this thread, which others may not find."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install 'nbcloud[dev]'"
    )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=_CHROMIUM_FLAGS)
        yield browser
        browser.close()


class Cell:
    """A cell of a notebook that is open in the browser."""

    def __init__(self, page: Page, index: int) -> None:
        self.page = page
        self.index = index

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What the notebook's model holds, as nbformat."""
        outputs: list[dict[str, Any]] = self.page.evaluate("index => lab.outputs(index)", self.index)
        return outputs

    def text(self, *names: str) -> str:
        """The text of its streams, of all or of those named."""
        texts = [
            o["text"]
            for o in self.outputs
            if o["output_type"] == "stream" and o["name"] in (names or o["name"])
        ]
        return "".join(text if isinstance(text, str) else "".join(text) for text in texts)

    @property
    def done(self) -> bool:
        """Whether it has run to its end."""
        return bool(self.page.evaluate("index => lab.runs[index] === 'done'", self.index))

    @property
    def area(self) -> Locator:
        """Its outputs in the page."""
        return self.page.locator(f'[data-number="{self.index}"] .jp-Cell-outputArea')

    def wait(self, limit: float = _LIMIT) -> Cell:
        """Wait until it has run to its end."""
        self.page.wait_for_function(
            "index => lab.runs[index] === 'done'", arg=self.index, timeout=limit * 1000
        )
        return self

    def until(self, condition: Callable[[Cell], Any], limit: float = _LIMIT) -> Cell:
        """Wait for something that is true of it."""
        deadline = time.monotonic() + limit
        while not condition(self):
            if time.monotonic() > deadline:
                pytest.fail(f"not true of cell {self.index} within {limit:g} s: {str(self.outputs)[-1000:]}")
            self.page.wait_for_timeout(30)
        return self

    def shows(self, text: str, limit: float = _LIMIT) -> Cell:
        """Wait until its outputs in the page have this text."""
        self.area.get_by_text(text).first.wait_for(state="visible", timeout=limit * 1000)
        return self


class Notebook:
    """A notebook that is open in the browser."""

    def __init__(self, lab: Lab, page: Page, path: Path) -> None:
        self.lab = lab
        self.page = page
        self.path = path

    def open(self) -> None:
        """Open it in the page."""
        self.page.evaluate("path => { lab.open(path) }", self.path.name)
        self.page.wait_for_function("lab.isReady", timeout=_LIMIT * 1000)

    def reload(self) -> None:
        """Load the page anew, and open it there."""
        _load(self.page, self.lab)
        self.open()

    def start(self, code: str) -> Cell:
        """Run code in a new cell, without waiting for its end."""
        index = self.page.evaluate("source => lab.add(source)", code)
        self.page.evaluate("index => lab.start(index)", index)
        return Cell(self.page, index)

    def run(self, code: str, limit: float = _LIMIT) -> Cell:
        """Run code in a new cell to its end."""
        return self.start(code).wait(limit)

    def type(self, text: str) -> Locator:
        """Type text into a new cell; its editor."""
        index = self.page.evaluate("lab.add('')")
        editor = self.page.locator(f'[data-number="{index}"] .cm-content')
        editor.click()
        self.page.keyboard.type(text)
        return editor

    def tab(self, answered: Callable[[], Any]) -> None:
        """Press Tab until the answer is there: once for the list, once more to take its only entry.

        Also again after a while: JupyterLab gives up on a kernel that takes longer than a second.
        """
        deadline = time.monotonic() + _LIMIT
        while not answered():
            assert time.monotonic() < deadline, "Tab was not answered"
            self.page.keyboard.press("Tab")
            waited = time.monotonic() + 2
            while not answered() and time.monotonic() < waited:
                self.page.wait_for_timeout(30)
                if self.page.locator(".jp-mod-completer-active").count():
                    break

    def command(self, name: str) -> None:
        """Give a command of JupyterLab, as a menu would, without waiting for what comes of it."""
        self.page.evaluate("name => { jupyterapp.commands.execute(name) }", name)

    def restart_kernel(self) -> None:
        """Restart the kernel, confirm it in the dialog, and wait for the new one."""
        self.page.evaluate(
            """() => {
                lab.restarted = false;
                const restart = jupyterapp.commands.execute('notebook:restart-kernel');
                restart.then(done => { lab.restarted = done; });
            }"""
        )
        self.page.locator(".jp-Dialog button.jp-mod-warn").click()
        self.page.wait_for_function("lab.restarted", timeout=_LIMIT * 1000)

    def save(self) -> nbformat.NotebookNode:
        """Save it; what the file has then."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.path, as_version=4)

    def picture(self, name: str) -> None:
        """Keep a picture of the page."""
        self.page.screenshot(path=self.path.parent / "pictures" / f"{self.path.stem}-{name}.png")

    def close(self) -> None:
        """Save it, close it, and end its kernel."""
        self.save()
        self.command("application:close")
        for session in self.lab.request("GET", "api/sessions"):
            if session["path"] == self.path.name:
                self.lab.request("DELETE", f"api/sessions/{session['id']}")


def _load(page: Page, lab: Lab) -> None:
    page.goto(f"{lab.url}lab/workspaces/tests?reset&token={lab.token}")
    page.wait_for_function("window.jupyterapp !== undefined", timeout=_LIMIT * 1000)
    page.evaluate(_IN_PAGE)


@pytest.fixture(scope="package")
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    """JupyterLab, loaded."""
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    _load(page, lab)
    yield page
    page.close()


@pytest.fixture
def notebook(
    lab: Lab, page: Page, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notebook]:
    """A new notebook in the browser, with nbcloud loaded; this process sees the records of its runs."""
    monkeypatch.setenv("NBCLOUD_DATA_DIR", str(lab.records))
    path = lab.root / f"{re.sub('[^a-z]+', '-', request.node.name)}.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": kernel}), path)
    notebook = Notebook(lab, page, path)
    try:
        notebook.open()
        notebook.run("%load_ext nbcloud")
        yield notebook
    finally:
        notebook.picture("end")
        notebook.close()


class Gate:
    """Lets code on the cluster wait until the test has seen what it wants to see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def wait(self, name: str) -> str:
        """A line of code that waits for a gate, at most a minute."""
        path = str(self.directory / name)
        return (
            "import os, time; began = time.monotonic()\n"
            f"while not os.path.exists({path!r}) and time.monotonic() < began + 60: time.sleep(0.01)"
        )

    def open(self, name: str) -> None:
        """Let the code go on."""
        (self.directory / name).touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Gates of this test."""
    return Gate(tmp_path)

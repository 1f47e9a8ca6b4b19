"""A forked kernel is as one that was started cold; where it might not be, it is started cold."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbcloud.sessions.host import template as template_module
from tests.integration.kernels import Kernel, Worker, with_worker

SEEN = """
import atexit, ctypes, gc, json, os, resource, signal, socket, sys, threading
def named_socket(path):  # those of ZeroMQ: which of them are connected is the host's affair
    if not os.readlink(path).startswith("socket:"): return False
    with socket.socket(fileno=os.dup(int(path.rpartition("/")[2]))) as each:
        return bool(each.getsockname()) or (each.getpeername() != "")
def seen():
    def dive(depth):
        try: return dive(depth + 1)
        except RecursionError: return depth
    death = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(death))
    return {
        "environment": {k: v for k, v in os.environ.items() if "BLACK_BOX" not in k},
        "arguments": [sys.argv[0], len(sys.argv), sys.orig_argv[:-1], sys.orig_argv[-1] == sys.argv[-1]],
        "path": sys.path,
        "directory": os.getcwd(),
        "parent": os.getppid(),
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "dies with its parent": death.value,
        "descriptors": sorted(
            os.readlink(each.path).split(":")[0].rpartition("/")[2]
            for each in os.scandir("/proc/self/fd") if os.path.lexists(each.path) and not named_socket(each.path)
        ),
        "threads": len(os.listdir("/proc/self/task")),
        "signals": {each.name: str(signal.getsignal(each)).split(" at ")[0] for each in signal.Signals},
        "streams": [str(type(getattr(sys, each))) for each in ("stdin", "stdout", "stderr", "__stdout__")],
        "collector": gc.get_threshold(),
        "depth": dive(0),
        "at exit": atexit._ncallbacks(),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "session": get_ipython().history_manager.session_number,
        "modules": sorted(set(sys.modules) - {"nbcloud.sessions.kernel.template", "nbcloud.sessions.kernel.preloads"}),
        "main": {k: str(v) for k, v in vars(sys.modules["__main__"]).items() if k.startswith("__")},
    }
print(json.dumps(seen()))
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Make modules that kernels can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def make(name: str, code: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(code)
        return path

    return make


def test_a_forked_kernel_is_as_a_cold_one(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        cold = await worker.kernel()
        forked = await worker.forked(worker.template())
        assert not cold.process.forked
        seen = [json.loads(await kernel.text(SEEN)) for kernel in (cold, forked)]
        for fact in seen[0]:
            assert seen[1][fact] == seen[0][fact], fact
        assert seen[0]["parent"] == os.getpid()
        # And once more, so that nothing of the first is left in the second.
        again = json.loads(await (await worker.kernel(worker.templates[0])).text(SEEN))
        assert again["descriptors"] == seen[0]["descriptors"]

    with_worker(tmp_path, scenario)


def test_each_fork_has_its_own_chance(tmp_path: Path) -> None:
    draw = "[random.random(), numpy.random.rand(), str(uuid.uuid4()), str(uuid.uuid1()), tempfile.mktemp()]"

    async def scenario(worker: Worker) -> None:
        template = worker.template("numpy", "uuid", "tempfile", "ssl")
        first, second = await worker.forked(template), await worker.kernel(template)
        code = f"import numpy, random, ssl, tempfile, uuid\nprint({draw} + [ssl.RAND_bytes(8).hex()])"
        drawn = [eval(await kernel.text(code)) for kernel in (first, second)]
        assert all(one != other for one, other in zip(*drawn, strict=True))

    with_worker(tmp_path, scenario)


def test_what_a_preload_shows_is_what_an_import_shows(tmp_path: Path) -> None:
    frame = "import pandas as pd\npd.DataFrame([range(40)] * 2)"
    figure = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); None"
    widget = "import ipywidgets\nipywidgets.IntSlider(3)"
    targets = "'jupyter.widget' in get_ipython().kernel.comm_manager.targets"
    libraries = ("pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "ipywidgets")

    def shown(said: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        return sorted((kind, sorted(content.get("data", {}))) for kind, content in said)

    async def scenario(worker: Worker) -> None:
        template = worker.template(*libraries)
        cold, forked = await worker.kernel(), await worker.forked(template)
        assert await forked.value("'pandas' in __import__('sys').modules")
        for code in (frame, figure, widget):
            says = [await kernel.run(code) for kernel in (cold, forked)]
            assert shown(says[0]) == shown(says[1])
            if code is frame:
                frames = [next(c["data"] for kind, c in say if kind == "execute_result") for say in says]
                assert frames[0] == frames[1]
        assert any("image/png" in kinds for _, kinds in shown(await forked.run(figure)))
        assert await forked.value(targets)
        # OpenBLAS' threads, which a fork ended, begin again.
        product = (
            "import numpy, pathlib\na = numpy.ones((900, 900))\na @ a\n"
            "threads = [each.read_text() for each in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
            "print(len([name for name in threads if 'jemalloc' not in name]))"  # which only cold ones have
        )
        assert await cold.text(product) == await forked.text(product)

    with_worker(tmp_path, scenario)


def test_pandas_with_pyarrow_is_shared(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")

    async def scenario(worker: Worker) -> None:
        kernel = await worker.forked(worker.template("pandas"))
        assert await kernel.value("'pyarrow' in __import__('sys').modules")
        assert await kernel.value("[name for name in __import__('os').environ if 'ARROW' in name]") == []
        assert await kernel.value("__import__('pyarrow').array(range(10**6)).nbytes") == 8 * 10**6

    with_worker(tmp_path, scenario)


def test_streams_that_a_preload_keeps_are_the_kernels_own(
    tmp_path: Path, modules: Callable[[str, str], Path]
) -> None:
    modules(
        "logs",
        "import logging, sys\nlogging.basicConfig(level=20)\ndef say(out=sys.stdout): print('said', file=out)",
    )

    async def scenario(worker: Worker) -> None:
        kernel = await worker.forked(worker.template("logs"))
        assert await kernel.text("import logging, logs\nlogs.say()\nlogging.info('logged')") == (
            "said\nINFO:root:logged\n"
        )

    with_worker(tmp_path, scenario)


@pytest.mark.parametrize(
    ("death", "code"),
    [
        ("import os; os._exit(3)", 3),
        ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
    ],
)
def test_the_end_of_a_forked_kernel_is_known_exactly(tmp_path: Path, death: str, code: int) -> None:
    async def scenario(worker: Worker) -> None:
        kernel = await worker.forked(worker.template())
        kernel.send(death)
        assert await kernel.end() == code

    with_worker(tmp_path, scenario)


def test_a_killed_template_takes_no_kernel_with_it_and_is_replaced_once(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        template = worker.template()
        kernel = await worker.forked(template)
        assert template.pid
        os.kill(template.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(template.pid)], timeout=0)
        await _gone(template.pid)
        between = await worker.kernel(template)
        assert not between.process.forked
        assert await between.value("1 + 1") == 2
        second = await worker.forked(template)
        os.kill(template.pid, signal.SIGKILL)
        await _gone(template.pid)
        assert not (await worker.kernel(template)).process.forked
        assert template.refusal == "it died twice"
        for each in (kernel, second):
            assert await each.value("6 * 7") == 42
            each.send("import os; os._exit(7)")
            assert await each.end() == 7

    with_worker(tmp_path, scenario)


async def _gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1 / 0", "its import failed: ZeroDivisionError: division by zero"),
        ("import os; os._exit(4)", "it ended at the import of 'odd'"),
        ("raise SystemExit('no')", "its import failed: SystemExit: no"),
        ("print('hello')", "it prints when it is imported: hello"),
        ("import os; os.write(2, b'from C')", "it prints when it is imported: from C"),
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "it keeps 1 threads running when it is imported",
        ),
        ("import tempfile\nkept = tempfile.TemporaryDirectory()", "it makes temporary files"),
        ("from IPython import get_ipython\nget_ipython().events.register('a', print)", "(events)"),
        ("from IPython import get_ipython\nshell = get_ipython()", "(itself, to keep)"),
    ],
)
def test_a_preload_that_would_be_another_in_a_cell_is_refused(
    tmp_path: Path,
    modules: Callable[[str, str], Path],
    code: str,
    why: str,
) -> None:
    modules("odd", code)
    _refused(tmp_path, why)


def test_a_preload_that_hangs_is_given_up(
    tmp_path: Path, modules: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_module, "_IMPORT_SECONDS", 5)
    modules("odd", "import time\nwhile True: time.sleep(1)")
    _refused(tmp_path, "the preload 'odd' takes longer than 5 s")


def _refused(tmp_path: Path, why: str) -> None:
    """The others are shared."""

    async def scenario(worker: Worker) -> None:
        template = worker.template("colorsys", "odd", "wave")
        first = await worker.kernel(template)
        assert not first.process.forked
        assert await first.value("1 + 1") == 2
        async with asyncio.timeout(60):
            while not (kernel := await worker.kernel(template)).process.forked:
                pass
        assert why in template.left_out
        assert "'odd'" in template.left_out
        loaded = await kernel.value(
            "[n for n in ('odd', 'colorsys', 'wave') if n in __import__('sys').modules]"
        )
        assert loaded == ["colorsys", "wave"]
        assert not template.refusal

    with_worker(tmp_path, scenario)


def test_a_preload_that_changes_on_disk_is_imported_anew(
    tmp_path: Path, modules: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_module, "_REST", 0)
    modules("own", "version = 1")

    async def scenario(worker: Worker) -> None:
        template = worker.template("own")
        ahead = await worker.forked(template)
        assert await _version(ahead) == 1
        assert not ahead.process.outdated
        modules("own", "version = 22")
        assert ahead.process.outdated  # so that no session is given it
        kernel = await worker.kernel(template)
        assert not kernel.process.forked
        assert not kernel.process.outdated
        assert await _version(kernel) == 22
        assert await _version(await worker.forked(template)) == 22

    with_worker(tmp_path, scenario)


async def _version(kernel: Kernel) -> int:
    version: int = await kernel.value("__import__('own').version")
    return version


def test_another_environment_needs_another_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "_REST", 0)

    async def scenario(worker: Worker) -> None:
        template = worker.template()
        await worker.forked(template)
        monkeypatch.setenv("SOMETHING", "new")
        kernel = await worker.kernel(template)
        assert not kernel.process.forked
        for each in (kernel, await worker.forked(template)):
            assert await each.value("__import__('os').environ['SOMETHING']") == "new"

    with_worker(tmp_path, scenario)


def test_forked_kernels_and_their_template_end_with_the_worker(
    tmp_path: Path, other_process: Callable[[str], Any], wait_until: Callable[..., Any]
) -> None:
    worker = other_process(f"""
import asyncio, os
from pathlib import Path
from tests.integration.kernels import with_worker
async def scenario(worker):
    template = worker.template()
    kernels = [await worker.forked(template), await worker.kernel(template)]
    for kernel in kernels:
        kernel.send("import ctypes; ctypes.PyDLL(None).sleep(600)")  # which holds the interpreter's lock
    print(template.pid, *[kernel.process.pid for kernel in kernels], flush=True)
    await asyncio.sleep(600)
with_worker(Path({str(tmp_path)!r}), scenario)
""")
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    assert len(pids) == 3
    worker.kill()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)


def test_no_start_waits_for_another(tmp_path: Path) -> None:
    async def scenario(worker: Worker) -> None:
        template = worker.template()
        await worker.forked(template)
        begun = time.monotonic()
        kernels = await asyncio.gather(*[_directly(worker, template, name) for name in "abcdef"])
        assert time.monotonic() - begun < 10
        assert len({kernel.process.pid for kernel in kernels}) == 6
        assert all(kernel.process.forked for kernel in kernels)

    with_worker(tmp_path, scenario)


async def _directly(worker: Worker, template: Any, name: str) -> Kernel:
    directory = worker.directory / name
    directory.mkdir()
    kernel = Kernel(directory, template)
    worker.kernels.append(kernel)
    await kernel.process.start()
    return kernel

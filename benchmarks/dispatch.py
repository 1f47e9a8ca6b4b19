"""``python -m benchmarks.dispatch``: what a remote cell costs, side by side with peers, in one run.

See README.md for what is compared and how.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks import report
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.environments import peers_python, versions
from benchmarks.floor import Echo
from benchmarks.hosts import FAILURES, HOSTS, Host
from benchmarks.rows import ROWS, Row

# Every process that is started inherits this variable, however it detaches, and so is found at the end.
_MARK = "DISPATCH_BENCHMARK"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    # A stop by ``kill`` takes the same way out as Ctrl-C, also where a shell in the background ignores that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    pythons = {True: Path(sys.executable), False: peers_python()}
    facts = report.machine()
    results = report.Results()
    bench = Bench(options.contenders, pythons, results)
    try:
        bench.start()
        for name in options.only:
            row = ROWS[name]
            bench.compare(row, row.rounds(options.rounds))
        results.complete = True
    except KeyboardInterrupt:
        print("\nstopped; what was measured until now:")
    finally:
        bench.stop()
    report.show(results, options.only, options.contenders)
    installed = {"product": versions(pythons[True]), "peers": versions(pythons[False])}
    print(f"\nkept in {report.keep(results, installed, facts)}")
    return 0 if results.complete else 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=60, help="of the no-op row; longer rows take a share (default 60)"
    )
    parser.add_argument(
        "--only", type=_names(ROWS), default=list(ROWS), metavar="ROW,ROW", help=", ".join(ROWS)
    )
    parser.add_argument(
        "--contenders",
        type=_names(CONTENDERS),
        default=list(CONTENDERS),
        metavar="NAME,NAME",
        help=", ".join(CONTENDERS).replace("%", "%%"),
    )
    return parser.parse_args(arguments)


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are: {', '.join(known)}")
        return [name for name in known if name in names]

    return parse


class Bench:
    """The hosts that are up, and the rounds in which their contenders take turns."""

    def __init__(self, contenders: list[str], pythons: dict[bool, Path], results: report.Results) -> None:
        self._contenders = [CONTENDERS[name] for name in contenders]
        self._pythons = pythons
        self._results = results
        self._home = Path(tempfile.mkdtemp(prefix="nbb-"))  # short: a Unix socket's path has 107 characters
        self._mark = uuid.uuid4().hex
        self._environment = os.environ | {
            _MARK: self._mark,
            "IPYTHONDIR": str(self._home / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(self._home),
        }
        self._hosts: dict[str, Host] = {}
        self._lost: dict[str, str] = {}
        self._echo: Echo | None = None

    def start(self) -> None:
        self._echo = Echo(self._home, self._environment)
        for name in dict.fromkeys(contender.host for contender in self._contenders):
            self._start_host(name)

    def _start_host(self, name: str) -> None:
        kind = HOSTS[name]
        host = self._hosts[name] = kind(self._pythons[kind.of_product], self._home, self._environment)
        try:
            host.start()
            print(f"{name} is up", flush=True)
        except FAILURES as error:
            self._lost[name] = f"not runnable: {_sentence(error)}"
            print(f"{name}: {self._lost[name]}", flush=True)
            host.stop()

    def compare(self, row: Row, rounds: int) -> None:
        """Let every contender answer ``row`` in turn, ``rounds`` times."""
        able = [contender for contender in self._contenders if self._is_able(row, contender)]
        print(f"{row.name}: {rounds} rounds", flush=True)
        for number in range(-row.warm_ups, rounds):
            for contender in list(able):
                reason = self._measure(row, contender, number)
                if reason:
                    self._results.miss(row.name, contender.name, reason)
                    able.remove(contender)
            if row.name == "noop" and number >= 0 and self._echo:
                self._results.echo.append(1000 * self._echo.seconds())

    def _is_able(self, row: Row, contender: Contender) -> bool:
        reason = self._lost.get(contender.host) or contender.unable(row.name)
        if reason:
            self._results.miss(row.name, contender.name, reason)
        return not reason

    def _measure(self, row: Row, contender: Contender, number: int) -> str:
        """Take one sample, or say why this contender drops out of the row."""
        if contender.host in self._lost:
            return self._lost[contender.host]
        kernel = self._hosts[contender.host].kernel
        assert kernel is not None
        try:
            figures = row.measure(kernel, contender, number)
        except FAILURES as error:
            # What it still does is anybody's guess, and must not disturb the next ones: start again.
            self._hosts[contender.host].stop()
            self._start_host(contender.host)
            return _sentence(error)
        if number >= 0:
            self._results.add(row.name, contender.name, figures)
        return ""

    def stop(self) -> None:
        """Stop everything, and then look for what is left of it."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave processes behind
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._home, ignore_errors=True)
            stack.callback(_end_marked, self._mark)
            if self._echo:
                stack.callback(self._echo.close)
            for host in self._hosts.values():
                stack.callback(host.stop)


def _end_marked(mark: str) -> None:
    """Give what was told to stop a moment, then kill what is left, and say so."""
    marked = [process for process in psutil.process_iter() if _has_mark(process, mark)]
    _, left = psutil.wait_procs(marked, timeout=10)
    for process in left:
        print(f"left behind, killed: pid {process.pid}, {process.name()}")
        process.kill()
    psutil.wait_procs(left, timeout=10)


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(_MARK) == mark
    except psutil.Error:
        return False


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 160 else text[:160] + "…"


if __name__ == "__main__":
    sys.exit(main())

"""The rows of the comparison: what is run, when it counts as done, and what is measured."""

from __future__ import annotations

import re
from statistics import fmean

from benchmarks.contenders import FILL, Contender
from benchmarks.driver import Cell, CellError, Kernel
from benchmarks.screen import Screen, plain
from benchmarks.traffic import Traffic

FLOATS = 12_500_000
ARRAY_BYTES = 8 * FLOATS
LINES = 100_000
LINE_BYTES = 81
PNG_BYTES = 50_000
_MARK = "begun"


Figures = dict[str, float]
"""What one round gave, by name; ``ms`` is what is compared."""


class Row:
    """One question put to every contender."""

    name = ""
    title = ""
    share = 1.0
    """Rounds of this row for each round asked for."""
    warm_ups = 1
    limit = 120.0
    """Seconds after which a cell is given up."""

    def rounds(self, asked: int) -> int:
        return max(3, round(asked * self.share))

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:
        """Run the row once, check what came of it, and return its figures; ``number`` is the round's."""
        raise NotImplementedError

    def _run(self, kernel: Kernel, contender: Contender, code: str, **options: object) -> Cell:
        if contender.before:
            kernel.run(contender.before)
        return kernel.run(code, limit=self.limit, **options)  # type: ignore[arg-type]


class NoOp(Row):
    name = "noop"
    title = "a cell that does nothing"
    warm_ups = 5

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:  # noqa: ARG002
        cell = self._run(kernel, contender, contender.cell("pass"))
        return {"ms": 1000 * cell.seconds}


class FirstOutput(Row):
    name = "first-output"
    title = "first output of a cell that prints with flush, then works for 1 s"
    share = 0.25
    _print = f"print('{_MARK}', flush=True)"

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:  # noqa: ARG002
        body = f"import time\n{self._print}\ntime.sleep(1)"
        cell = self._run(
            kernel,
            contender,
            contender.cell(body),
            shown=lambda screen: screen.text.count(_MARK) >= contender.copies,
        )
        first = cell.first(_MARK.encode())
        if first > 1:
            raise CellError(f"not live: shown after {first:.2f} s, when the cell had ended")
        return {"ms": 1000 * first}


class FirstOutputUnflushed(FirstOutput):
    name = "first-output-unflushed"
    title = "the same without flush"
    _print = f"print('{_MARK}')"


class Lines(Row):
    name = "lines"
    title = f"{LINES:,} lines of 80 characters"
    share = 0.1
    limit = 60.0

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:  # noqa: ARG002
        payload = LINES * LINE_BYTES * contender.copies
        body = f"for i in range({LINES}):\n    print(f'{{i:080d}}')"
        before = Traffic.of(kernel.pid)
        cell = self._run(
            kernel,
            contender,
            contender.cell(body),
            shown=lambda screen: (
                len(screen.text) >= payload and screen.text.count("\n") >= LINES * contender.copies
            ),
        )
        after = Traffic.of(kernel.pid)
        _check_lines(cell.screen, contender.copies)
        figures = {"ms": 1000 * cell.seconds, "iopub bytes / payload": cell.iopub_bytes / payload}
        if before and after:
            figures["wire bytes / payload"] = sum(after.since(before)) / payload
        return figures


def _check_lines(screen: Screen, copies: int) -> None:
    numbers = [int(line) for line in re.findall(r"(?<!\d)\d{80}(?!\d)", screen.text)]
    if len(numbers) != LINES * copies or set(numbers) != set(range(LINES)):
        raise CellError(f"{len(numbers):,} of {LINES * copies:,} lines were shown")
    if copies == 1 and numbers != sorted(numbers):
        raise CellError("the lines were shown out of order")


class _Array(Row):
    share = 0.12

    @staticmethod
    def _fresh(kernel: Kernel, number: int) -> float:
        """Give the notebook a ``data`` that nobody has seen, and return its sum."""
        kernel.run(f"data = np.random.default_rng({number}).random({FLOATS})")
        return float(kernel.run("print(float(data.sum()))").screen.text)

    def _sum(self, kernel: Kernel, contender: Contender, code: str, expected: float) -> Cell:
        cell = self._run(
            kernel, contender, code, shown=lambda screen: len(_floats(screen)) >= contender.copies
        )
        if any(abs(found / expected - 1) > 1e-9 for found in _floats(cell.screen)):
            raise CellError(f"wrong sum: {_floats(cell.screen)}, not {expected}")
        return cell


def _floats(screen: Screen) -> list[float]:
    return [float(text) for text in re.findall(r"\d{5,}\.\d+", plain(screen.text))]


class ArrayIn(_Array):
    name = "array-in"
    title = "a new local array of 100 MB, summed remotely"

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:
        expected = self._fresh(kernel, number + 1000)
        before = Traffic.of(kernel.pid)
        cell = self._sum(kernel, contender, contender.array_in(), expected)
        after = Traffic.of(kernel.pid)
        figures = {"ms": 1000 * cell.seconds}
        if before and after:
            figures["sent / 100 MB"] = after.since(before)[0] / ARRAY_BYTES
        return figures


class ArrayOut(_Array):
    name = "array-out"
    title = "an array of 100 MB made remotely, as a local variable"

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:
        kernel.run("y = None")
        before = Traffic.of(kernel.pid)
        cell = self._run(kernel, contender, contender.array_out(FLOATS, number))
        after = Traffic.of(kernel.pid)
        check = FILL.format(size=FLOATS, number=number).replace("y =", "expected =")
        kernel.run(f"{check}\nassert isinstance(y, np.ndarray), type(y)\nassert np.array_equal(y, expected)")
        kernel.run("del y, expected")
        figures = {"ms": 1000 * cell.seconds}
        if before and after:
            figures["received / 100 MB"] = after.since(before)[1] / ARRAY_BYTES
        return figures


class ArrayTen(_Array):
    name = "array-ten"
    title = "one unchanged local array of 100 MB, summed in ten remote cells"
    share = 0.05

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:
        expected = self._fresh(kernel, number + 2000)
        before = Traffic.of(kernel.pid)
        codes = contender.array_ten()
        cells = [self._run(kernel, contender, code) for code in codes[:-10]]
        cells += [self._sum(kernel, contender, code, expected) for code in codes[-10:]]
        after = Traffic.of(kernel.pid)
        figures = {
            "ms": 1000 * sum(cell.seconds for cell in cells),
            "ms, a later cell": 1000 * fmean(cell.seconds for cell in cells[-9:]),
        }
        if before and after:
            figures["sent / 100 MB"] = after.since(before)[0] / ARRAY_BYTES
        return figures


class Error(Row):
    name = "error"
    title = "a ZeroDivisionError, until it is shown"
    share = 0.5
    warm_ups = 3

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:  # noqa: ARG002
        cell = self._run(
            kernel,
            contender,
            contender.cell("1 / 0"),
            may_fail=True,
            shown=lambda screen: "ZeroDivisionError" in screen.text,
        )
        return {"ms": 1000 * cell.first(b"ZeroDivisionError"), "ms, until idle": 1000 * cell.seconds}


class Figure(Row):
    name = "figure"
    title = "a PNG of 50 kB, shown by the remote cell"
    share = 0.5
    warm_ups = 3

    def measure(self, kernel: Kernel, contender: Contender, number: int) -> Figures:  # noqa: ARG002
        cell = self._run(
            kernel,
            contender,
            contender.figure(),
            shown=lambda screen: (
                sum(size >= PNG_BYTES for size in screen.images.values()) >= contender.copies
            ),
        )
        return {"ms": 1000 * cell.seconds}


ROWS = {
    row.name: row
    for row in (
        NoOp(),
        FirstOutput(),
        FirstOutputUnflushed(),
        Lines(),
        ArrayIn(),
        ArrayOut(),
        ArrayTen(),
        Error(),
        Figure(),
    )
}

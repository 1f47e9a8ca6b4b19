"""How each contender's good user writes the same cell.

Every class has the same few names. ``cell(body)`` runs ``body`` remotely and shows what it prints;
the others are the rows that need more than that. ``body`` never holds the notebook's variable ``data``
(a local array of 100 MB), except where the method's name says so.
"""

from __future__ import annotations

from textwrap import indent

SUM = "print(float(data.sum()))"
FILL = "import numpy as np\ny = np.arange({size}, dtype='f8') + {number}"
FIGURE = "import os\nfrom IPython.display import Image\n"
PNG = "b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom(50_000)"
IMAGE = f"Image(data={PNG}, format='png')"


class Contender:
    """A plain local cell: the baseline that ``%%cloud`` wants to be like."""

    name = "bare kernel"
    host = "bare"
    copies = 1
    """How many times the body runs, and so how many times each line is shown."""
    note = ""
    before = ""
    """Code that runs, untimed, before each timed cell."""

    def cell(self, body: str) -> str:
        return body

    def array_in(self) -> str:
        """The local ``data`` summed remotely."""
        return self.cell(SUM)

    def array_ten(self) -> list[str]:
        """The unchanged local ``data`` summed remotely in ten cells."""
        return [self.array_in()] * 10

    def array_out(self, size: int, number: int) -> str:
        """A remote array of ``size`` floats, as the local ``y``."""
        return self.cell(FILL.format(size=size, number=number))

    def figure(self) -> str:
        """A picture of 50 kB, shown by the remote cell."""
        return self.cell(FIGURE + IMAGE)

    def unable(self, row: str) -> str:  # noqa: ARG002
        """Why this contender has no such row; empty if it has."""
        return ""


class Nbcloud(Contender):
    name = "nbcloud"
    host = "nbcloud"
    note = "TLS; all lines shown (shown_limit raised)"

    def cell(self, body: str) -> str:
        return f"%%cloud\n{body}"

    def array_out(self, size: int, number: int) -> str:
        return f"%%cloud -o y\n{FILL.format(size=size, number=number)}"


class SecondKernel(Contender):
    """Another kernel on this machine, by jupyter_client's own ``execute_interactive``.

    What any tool pays that runs a cell in a real kernel elsewhere, before it moves a value, keeps an output
    or leaves the machine.
    """

    name = "second kernel"
    host = "second kernel"
    note = "same machine, no cluster; moves no values, keeps nothing"

    def cell(self, body: str) -> str:
        return f"%%second\n{body}"

    def unable(self, row: str) -> str:
        if row.startswith("array") or row == "figure":
            return "it moves no values, and prints a picture as text"
        return ""


class Ipyparallel(Contender):
    """``%%px`` on both engines, its default: blocking, streamed."""

    name = "ipyparallel %%px"
    host = "ipyparallel"
    copies = 2
    note = "two engines, each runs the cell"
    _magic = "%%px"
    _view = "engines[:]"

    def cell(self, body: str) -> str:
        return f"{self._magic}\n{body}"

    # ``%%px`` takes the whole cell, so push and pull are written beside the line magic's own call.
    def array_in(self) -> str:
        return f"{self._push()}\n{self._run(SUM)}"

    def array_ten(self) -> list[str]:
        # Pushed once by hand: ipyparallel leaves it to the user to know that ``data`` did not change.
        return [self._push(), *[self.cell(SUM)] * 10]

    def array_out(self, size: int, number: int) -> str:
        body = FILL.format(size=size, number=number)
        return f"{self._run(body)}\ny = {self._view}.pull('y', block=True){self._first}"

    _first = "[0]"

    def _push(self) -> str:
        return f"{self._view}.push({{'data': data}}, block=True)"

    def _run(self, body: str) -> str:
        options = self._magic.removeprefix("%%px").strip()
        return f"get_ipython().run_cell_magic('px', {options!r}, {body!r})"


class IpyparallelOne(Ipyparallel):
    """``%%px --targets 0``: one engine, the nearest equivalent of one remote cell."""

    name = "ipyparallel -t 0"
    copies = 1
    note = "one engine"
    _magic = "%%px --targets 0"
    _view = "engines[0]"
    _first = ""


class RawDask(Contender):
    """``client.submit`` by somebody who knows Dask.

    ``distributed.print`` is Dask's own way to see a task's output while it runs (its ``ForwardOutput`` was
    tried and is slower). ``pure=False``, because a cell that is run again has to run again.
    """

    name = "raw Dask submit"
    host = "dask"
    note = "plain TCP; distributed.print"
    _call = "client.submit(cell, pure=False).result()"

    def cell(self, body: str) -> str:
        see = "from distributed import print\n" if "print(" in body else ""
        return f"def cell():\n{indent(see + body, '    ')}\n{self._call}"

    # ``hash=False`` and ``direct=True`` are the fastest of Dask's ways here (tried): without them scatter
    # first hashes the array, and both scatter and gather pass through the scheduler.
    _scatter = "remote = client.scatter(data, hash=False, direct=True)"
    _sum = (
        "def total(array):\n    return float(array.sum())\n"
        "print(client.submit(total, remote, pure=False).result())"
    )

    def array_in(self) -> str:
        return f"{self._scatter}\n{self._sum}"

    def array_ten(self) -> list[str]:
        return [self._scatter, *[self._sum] * 10]

    def array_out(self, size: int, number: int) -> str:
        body = FILL.format(size=size, number=number) + "\nreturn y"
        home = "y = client.gather(client.submit(cell, pure=False), direct=True)"
        return f"def cell():\n{indent(body, '    ')}\n{home}"

    def figure(self) -> str:
        # A task has no display: the bytes come home as its result and are shown here.
        return (
            "from IPython.display import Image\ndef cell():\n    import os\n"
            f"    return {PNG}\nImage(data={self._call}, format='png')"
        )


class DaskRun(RawDask):
    """``client.run`` on one worker: no task, so no scheduling, but the worker's event loop stands still."""

    name = "raw Dask run"
    note = "plain TCP; blocks the worker's event loop"
    _call = "client.run(cell, workers=[worker])[worker]"

    def unable(self, row: str) -> str:
        if row.startswith("array"):
            return "client.run is no way to ship data; see raw Dask submit"
        if row == "lines" or row.startswith("first-output"):
            return "what a client.run prints stays on the worker"
        return ""


class Afar(Contender):
    """``%%afar -g``: without ``-g`` the cell returns before it has run, and there is nothing to time."""

    name = "afar"
    host = "afar"
    note = "plain TCP; output in an ipywidgets.Output"
    before = "afar._core.supports_async_output = lambda: True"

    def cell(self, body: str) -> str:
        return f"%%afar -g done\n{body}\ndone = True"

    def array_ten(self) -> list[str]:
        # afar sends what a cell reads each time; its README says to scatter what is used again.
        return ["data = client.scatter(data, hash=False, direct=True)", *[self.array_in()] * 10]

    def array_out(self, size: int, number: int) -> str:
        return f"%%afar -g y\n{FILL.format(size=size, number=number)}"

    def figure(self) -> str:
        # Only a last expression is shown (a task has no ``display``), so nothing is left to wait for by
        # ``-g``; the row waits for the picture itself.
        return f"%%afar\n{FIGURE}{IMAGE}"


class AfarPlain(Afar):
    """afar where ipywidgets is not installed: it prints, and from a thread."""

    name = "afar (plain)"
    note = "plain TCP; printed from a thread"
    before = "afar._core.supports_async_output = lambda: False"


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(),
        Nbcloud(),
        SecondKernel(),
        Ipyparallel(),
        IpyparallelOne(),
        RawDask(),
        DaskRun(),
        Afar(),
        AfarPlain(),
    )
}

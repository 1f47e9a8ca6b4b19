"""``%cloud`` and ``%%cloud``."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand

from nbcloud.commands.cell import cell_options, cell_parser
from nbcloud.commands.parser import Help
from nbcloud.errors import NbcloudError
from nbcloud.jupyter.completion import matcher

if TYPE_CHECKING:
    from nbcloud.jupyter.cell import CellRunner
    from nbcloud.jupyter.lines import LineCommands


@magics_class
class CloudMagics(Magics):
    """The magics of one shell; what they need is imported at their first use."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._runner: CellRunner | None = None
        self._lines: LineCommands | None = None
        self.matcher = matcher(self)

    @property
    def runner(self) -> CellRunner:
        """Runs cells."""
        if self._runner is None:
            from nbcloud.jupyter.cell import CellRunner

            self._runner = CellRunner(self.shell)
            atexit.register(self.close)
        return self._runner

    @property
    def lines(self) -> LineCommands:
        """Runs ``%cloud`` commands."""
        if self._lines is None:
            from nbcloud.jupyter.lines import LineCommands

            self._lines = LineCommands(self.shell, lambda: self.runner)
        return self._lines

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_magic("cloud")  # type: ignore[untyped-decorator]
    def on_a_line(self, line: str) -> Any:
        """Start and stop clusters, look after sessions and runs.

        ``%cloud --help`` lists the commands, ``%cloud COMMAND --help`` tells of one. Without a command, what
        runs and waits is shown. To run a cell on a cluster, put ``%%cloud`` on top of it; of this tells
        ``%%cloud?``.
        """
        with _answering(f"%cloud {' '.join(line.split()[:1])} was interrupted before it was done."):
            return self.lines.run(line)

    @no_var_expand  # type: ignore[untyped-decorator]
    @cell_magic("cloud")  # type: ignore[untyped-decorator]
    def on_a_cell(self, line: str, cell: str) -> Any:
        """Replaced by the manual page when the magics are registered."""
        with _answering("The cell was interrupted before it was sent; nothing of it ran."):
            options = cell_options(line)
            if cell.strip():  # else as in a local kernel: nothing to run, nothing to say
                return self.runner.run(self._as_typed(cell), options)
        return None

    def _as_typed(self, cell: str) -> str:
        """The cell before IPython added a newline to it, and emptied its blank lines.

        Its strings may go over such lines, and its code objects are named after its text.
        """
        kernel = getattr(self.shell, "kernel", None)
        typed = kernel.get_parent("shell").get("content", {}).get("code", "") if kernel is not None else ""
        _, _, body = typed.lstrip().partition("\n")
        if _without_blanks(body) == _without_blanks(cell):
            return str(body)
        return cell if typed.endswith("\n") else cell.removesuffix("\n")

    def close(self) -> None:
        """Put on record what is left, and end the links."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


def _without_blanks(text: str) -> list[str]:
    return [line if line.strip() else "" for line in text.removesuffix("\n").split("\n")]


@contextlib.contextmanager
def _answering(interrupted: str) -> Iterator[None]:
    """Print a manual page that was asked for; have IPython show an error as its sentence, without a stack.

    ``interrupted`` is the sentence of a KeyboardInterrupt.
    """
    try:
        yield
    except Help as page:
        print(page)
    except (NbcloudError, KeyboardInterrupt) as error:
        shows_its_own = getattr(type(error), "_render_traceback_", None)  # what the cell raised
        if shows_its_own in {None, NbcloudError._render_traceback_}:
            text = f"{type(error).__name__}: {str(error) or interrupted}"
            error._render_traceback_ = lambda: [text]  # type: ignore[method-assign,union-attr]
        raise


def register(shell: Any) -> None:
    """Give a shell the magics and their completion."""
    magics = CloudMagics(shell)
    page = f"{cell_parser().format_help()}\nCommands of %cloud: see %cloud --help"
    CloudMagics.on_a_cell.__doc__ = page
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.matcher)


def unregister(shell: Any) -> None:
    """Take the magics away."""
    magics = shell.magics_manager.registry.pop("CloudMagics", None)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("cloud", None)
    if magics is not None:
        shell.Completer.custom_matchers.remove(magics.matcher)
        magics.close()

"""What a notebook is run with, and what is refused before it runs."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from papermill.clientwrap import PapermillNotebookClient

from nbcloud.config import parse_bytes
from nbcloud.dispatch.options import CellOptions
from nbcloud.errors import UsageError
from nbcloud.workflows.notebook.stopping import Stopping


@dataclass(frozen=True)
class NotebookOptions:
    """Where and as what a notebook runs.

    Attributes
    ----------
    cluster : str, optional
        Its name, a profile or an address; the default cluster otherwise, which is started when it is not up.
    cpus, memory, gpus : optional
        What the session is to hold; memory as ``"16GiB"`` or in bytes.
    folder : str, optional
        Where it runs; in the folder of this process by default, which is one for all of its threads.
    skip_tags : sequence of str
        Cells with one of these tags don't run, and keep what they have.
    name, tags, experiment : optional
        For the record; the experiment that ``nbcloud.set_experiment`` or the settings say otherwise.
    seed : int, optional
        By which the random numbers of Python and numpy begin; drawn otherwise, and put on record.
    resume : bool
        Go on behind the cells that are completed, in the session that an earlier process left.
    stopping : Stopping, optional
        Who may stop it from another thread.
    """

    cluster: str | None = None
    cpus: float | None = None
    memory: str | int | None = None
    gpus: int | None = None
    folder: str | None = None
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    skip_tags: Sequence[str] = ()
    experiment: str = ""
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    resume: bool = False
    stopping: Stopping = field(default_factory=Stopping)

    def __post_init__(self) -> None:
        if type(self.seed) is not int or self.seed.bit_length() > 32 or self.seed < 0:
            raise UsageError(f"seed={self.seed!r}: it must be a whole number of at most 32 bits.")

    def of_cells(self) -> CellOptions:
        """What the session is asked for."""
        memory = parse_bytes(self.memory) if isinstance(self.memory, str) else self.memory
        return CellOptions(cluster=self.cluster, cpus=self.cpus, memory=memory, gpus=self.gpus)


def check_tags(notebook: Any, skipped: Iterable[str]) -> None:
    """Refuse to skip what no cell is: most likely it is misspelt, and what was to be skipped would run."""
    known = sorted({tag for cell in notebook.cells for tag in cell.metadata.get("tags", ())})
    for tag in sorted({*skipped}.difference(known)):
        near = difflib.get_close_matches(tag, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known) or 'none'}."
        raise UsageError(f"No cell of the notebook has the tag {tag!r} that is to be skipped.", hint)


def check_language(notebook: Any, kernel_name: str) -> None:
    """Refuse a notebook that is not written in Python."""
    metadata = notebook.metadata
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    if (language or "python").lower() not in {"python", "ipython"}:
        raise UsageError(
            f"The notebook is written for {language} (kernel {kernel_name!r}), and sessions are of Python.",
            "Run it with papermill's own engine: papermill IN OUT",
        )


def check_options(options: dict[str, Any]) -> None:
    """Refuse what neither nbcloud nor nbclient knows."""
    known = [*NotebookOptions.__dataclass_fields__, *PapermillNotebookClient.class_trait_names()]
    known += ["execution_timeout", "autosave_cell_every"]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known[:7])}."
            raise UsageError(f"The engine nbcloud has no option {option!r}.", hint)

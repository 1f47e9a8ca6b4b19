"""What a cell is asked to be run with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CellOptions:
    """The options of ``%%cloud``, checked."""

    cluster: str | None = None
    session: str | None = None
    fresh: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    background: bool = False
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory: int | None = None
    gpus: int | None = None
    workers: int | None = None
    timeout: float | None = None
    retries: int = 0
    cache: bool = False
    local: bool = False
    dry_run: bool = False
    sweep: tuple[str, ...] = ()
    """Names and their values, as texts: ``lr=0.1,0.01``."""

    @property
    def resources(self) -> dict[str, float]:
        """The Dask resources that the cell's session must hold; each of them, when there are several."""
        wanted = {"CPU": self.cpus, "MEMORY": self.memory, "GPU": self.gpus}
        return {name: float(amount) for name, amount in wanted.items() if amount}

"""papermill's engine ``nbcloud``: ``papermill in.ipynb out.ipynb --engine nbcloud``.

papermill imports every registered engine at each start, so this file holds no more than the door.
"""

from __future__ import annotations

from typing import Any

from papermill.engines import Engine


class CloudEngine(Engine):
    """Runs a whole notebook in one session of a cluster."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        **kwargs: Any,
    ) -> Any:
        """Run a notebook; what papermill calls.

        Parameters
        ----------
        autosave_cell_every : int
            0 writes the file between cells only; else it is written while a cell runs, too, within a second.
        **kwargs
            Those of `nbcloud.workflows.notebook.execution.execute`.
        """
        from nbcloud.workflows.notebook.execution import execute
        from nbcloud.workflows.notebook.manager import SteadyManager

        manager = SteadyManager(nb, output_path, log_output, progress_bar, autosave_cell_every)
        return execute(manager, kernel_name, log_output=log_output, **kwargs)

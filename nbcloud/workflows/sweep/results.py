"""What the members of a sweep over a notebook came to."""

from __future__ import annotations

from nbcloud.workflows.sweep.folder import Sweep
from nbcloud.workflows.sweep.table import Ended, Table


class Results(Table):
    """The table of a sweep over a notebook.

    Parameters
    ----------
    sweep : Sweep
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        outcomes = [(member, member.outcome) for member in sweep.members]
        members = [
            Ended(each.number, each.parameters, end.stage, end.seconds, end.error, end.run, str(each.output))
            for each, end in outcomes
        ]
        mode = str(sweep.search.get("mode", "min")) if sweep.search else ""
        super().__init__(sweep.source.name, members, mode)

"""``nbcloud.sweep``: a sweep is begun or gone on with, and its table comes back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.config import parse_seconds
from nbcloud.errors import NbcloudError, UsageError
from nbcloud.workflows.claims import claimed
from nbcloud.workflows.distributions import Distribution, Domain, domain, drawn, plain
from nbcloud.workflows.parameters import check, check_domain, declared, grid
from nbcloud.workflows.sweep.folder import Sweep
from nbcloud.workflows.sweep.progress import bar
from nbcloud.workflows.sweep.results import Results
from nbcloud.workflows.sweep.runner import Limits, Runner
from nbcloud.workflows.sweep.search import Function, Rows, Search

if TYPE_CHECKING:
    import optuna

_LIMITS = frozenset(each.name for each in dataclasses.fields(Limits))

Parameters = (
    Mapping[str, Sequence[Any] | str]
    | Sequence[Mapping[str, Any]]
    | Callable[[Rows], Mapping[str, Any] | None]
)


def sweep(
    notebook: str | Path,
    parameters: Parameters,
    output: str | Path,
    *,
    random: int | None = None,
    trials: int | None = None,
    metric: str = "",
    mode: str = "min",
    seed: int = 0,
    prune: bool = False,
    study: optuna.Study | None = None,
    until: str = "",
    resume: bool = False,
    loose: bool = False,
    parallel: int | None = None,
    retries: int = 0,
    member_timeout: float | str | None = None,
    **options: Any,
) -> Results:
    """Run a notebook over many sets of parameters, and return what each came to.

    Parameters
    ----------
    notebook : str or Path
    parameters : mapping, sequence of mappings, or callable
        A grid, ``{"lr": [0.1, 0.01], "seed": range(4)}``, of which every combination is run; or the members;
        or a function that is given the rows of the table, and returns the next member's parameters, or None
        when there are to be no more. With ``random`` or ``trials``, the values of a grid may be texts like
        ``"loguniform:1e-4:1e-1"``, ``"uniform:0:1"``, ``"randint:1:9"`` or ``"lograndint:16:1025"``.
    output : str or Path
        A folder, for the members' notebooks.
    random : int, optional
        Run only so many members of the grid, drawn at random.
    trials : int, optional
        Let Optuna choose so many members one after the other, by ``metric`` (needs the extra ``optuna``).
    metric, mode : str
        What is to become lowest (``"min"``) or highest (``"max"``).
    seed : int
        Of ``random`` and ``trials``.
    prune : bool
        With ``trials``: stop members that are behind the others in ``metric``, which they log with a step.
    study : optuna.Study, optional
        With ``trials``: one of your own, which knows its direction, sampler and pruner.
    until : str
        A filter as of ``nbcloud runs``, ``"metrics.loss < 0.1"``: the rest is stopped when a member meets it.
    resume : bool
        Go on with the sweep in the folder, if there is one; its members count then, and options that are not
        given are as they were. ``trials`` is how many a search is to have in all, and may have grown.
    loose : bool
        Take parameters whose name or type the notebook does not have.
    parallel : int, optional
        How many at once; as many as the cluster has threads by default.
    retries : int
        How often a member that fails is tried again.
    member_timeout : float or str, optional
        Seconds, or a text like ``"2h"``, that a member may take.
    **options
        ``cluster``, ``cpus``, ``memory``, ``gpus``, and those of papermill.

    Raises
    ------
    UsageError
        Before anything has run, for parameters that the notebook does not have.
    """
    directory, source = Path(output), Path(notebook)
    chosen = {"random": random, "trials": trials, "study": study, "prune": prune or None}
    ignored = [name for name, value in chosen.items() if value is not None]
    if ignored and not isinstance(parameters, Mapping):
        raise UsageError(
            f"{ignored[0]}= needs a grid, and parameters is none.", "Write for example: {'lr': 'uniform:0:1'}"
        )
    limits = {"parallel": parallel, "retries": retries or None, "until": until or None}
    options |= {**limits, "member_timeout": _seconds(member_timeout)}
    limits_of(options)
    with claimed(str(directory.resolve())):
        if resume and (directory / "sweep.json").exists():
            found = Sweep.open(directory)
            found.check_source()
            if trials is not None:
                found.extend(trials)
            search = search_of(found, study)
        else:
            known, search = declared(str(source)), None
            if callable(parameters):
                found = Sweep.begin(source, directory, [])
            elif isinstance(parameters, Mapping):
                domains = {name: domain(values) for name, values in parameters.items()}
                for name, values in domains.items():
                    check_domain(known, name, values, loose=loose)
                found = begin(source, directory, domains, random, trials, metric, mode, seed, prune=prune)
                search = search_of(found, study)
            else:
                members = [{name: plain(value) for name, value in each.items()} for each in parameters]
                if not members:
                    raise UsageError(
                        "The sweep has no member.", "Give a list of dicts, or a grid: {'lr': [0.1, 0.01]}"
                    )
                for member in members:
                    check(known, member, loose=loose)
                found = Sweep.begin(source, directory, members)
        if callable(parameters):
            known = declared(str(source))
            search = Function(found, parameters, lambda chosen: check(known, chosen, loose=loose))
        run(found, search, metric=metric, mode=mode, **options)
    return Results(found)


def begin(
    source: Path,
    directory: Path,
    domains: Mapping[str, Domain],
    random: int | None,
    trials: int | None,
    metric: str,
    mode: str,
    seed: int,
    *,
    prune: bool = False,
) -> Sweep:
    """Begin a sweep over what its parameters may be: all of it, members drawn, or a search.

    Raises
    ------
    UsageError
        When the parts of this do not go together, or the folder holds a sweep.
    """
    if mode not in {"min", "max"}:
        raise UsageError(f"mode={mode!r}: it must be 'min' or 'max'.")
    if trials is None and prune:
        raise UsageError("Members can be pruned in a search only.", "Say how many members: --trials 40")
    if trials is None:
        members = grid(domains) if random is None else drawn(domains, random, seed)
        return Sweep.begin(source, directory, members)
    if random is not None:
        raise UsageError(
            "Members are either drawn at random or searched for.", "Leave out --random or --trials."
        )
    if trials < 1:
        raise UsageError(f"--trials {trials}: it must be at least 1.")
    if not metric:
        raise UsageError("What is to be searched for?", "Name a metric: --lowest loss, or --highest accuracy")
    texts = {name: str(each) if isinstance(each, Distribution) else [*each] for name, each in domains.items()}
    search = {
        "domains": texts,
        "trials": trials,
        "metric": metric,
        "mode": mode,
        "seed": seed,
        "prune": prune,
    }
    return Sweep.begin(source, directory, [], search)


def search_of(found: Sweep, study: optuna.Study | None = None) -> Search | None:
    """What chooses further members of a sweep; None when it has all."""
    if not found.search:
        return None
    from nbcloud.workflows.sweep.study import StudySearch

    about = dict(found.search)
    try:
        domains = {name: domain(each) for name, each in about.pop("domains").items()}
        return StudySearch(found.directory, domains, study=study, **about)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, NbcloudError):
            raise
        raise UsageError(
            f"What sweep.json in {found.directory} says of the search can't be used: {error}."
        ) from error


def run(
    found: Sweep,
    search: Search | None,
    *,
    metric: str = "",
    mode: str = "min",
    again: bool = False,
    **options: Any,
) -> Runner:
    """Run what is left of a sweep, and show how it goes.

    Parameters
    ----------
    found : Sweep
        In a folder that is ``claimed``, since before it was begun or opened.
    search : Search, optional
        Chooses further members.
    metric, mode : str
        Of what the best value is shown; a search knows its own.
    again : bool
        Run those again that have failed.
    **options
        The fields of `Limits`, and those of `run_notebook`; what is None is as it was said before.
    """
    given = {name: value for name, value in options.items() if value not in (None, "", [])}
    before = dict(found.options)
    limits = limits_of({**before, **given})
    found.keep_options(**{name: value for name, value in given.items() if _can_be_kept(value)})
    given = {**found.options, **given}
    options = {name: value for name, value in given.items() if name not in _LIMITS}
    about = found.search or {}
    total: int | None = len(found.left(again=again))
    if search is not None:
        total = about["trials"] - len(found.members) + total if about else None
    shown_metric, shown_mode = about.get("metric", metric), about.get("mode", mode)
    with bar(found.source.name, total, shown_metric, shown_mode) as shown:
        runner = Runner(found, search=search, limits=limits, again=again, changed=shown.show, **options)
        try:
            runner.run()
        except NbcloudError:  # they may be what is wrong
            found.keep_options(**{name: before.get(name) for name in given})
            raise
    return runner


def limits_of(options: Mapping[str, Any]) -> Limits:
    """The limits among options, of which None is not said.

    Raises
    ------
    UsageError
        For a limit that can't be one.
    """
    return Limits(**{name: options[name] for name in _LIMITS if options.get(name) is not None})


def _seconds(limit: float | str | None) -> float | None:
    return parse_seconds(limit) if isinstance(limit, str) else limit


def _can_be_kept(value: Any) -> bool:
    """Whether a file can hold it; an open file, as papermill takes one, is given anew each time."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True

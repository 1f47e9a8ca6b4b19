"""Optuna chooses the members of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.errors import UsageError
from nbcloud.extras import check
from nbcloud.workflows.distributions import Distribution, Domain
from nbcloud.workflows.notebook.outcome import Outcome, Stage
from nbcloud.workflows.sweep.folder import Member
from nbcloud.workflows.sweep.search import history_of, metrics_of

if TYPE_CHECKING:
    import optuna

_PRIMITIVE = (bool, int, float, str, type(None))
_MEMBER = "nbcloud_member"
_FEW = 3


class StudySearch:
    """A study that is asked for trials, and told the metric of each.

    Parameters
    ----------
    folder : Path
        Of the sweep.
    domains : mapping
        What each parameter may be.
    metric : str
        What is to become lowest or highest.
    trials : int
        How many members there are to be.
    mode : str
        ``"min"`` or ``"max"``; a study that is given knows it itself.
    seed : int
        Of the sampler; not of a study that is given.
    prune : bool
        Stop members that the study's pruner gives up.
    study : optuna.Study, optional
        With samplers, pruners and storage as you like; else one in memory, with Optuna's sampler (TPE).

    Raises
    ------
    UsageError
        For a study with several objectives.
    """

    def __init__(
        self,
        folder: Path,
        domains: Mapping[str, Domain],
        metric: str,
        trials: int,
        *,
        mode: str = "min",
        seed: int = 0,
        prune: bool = False,
        study: optuna.Study | None = None,
    ) -> None:
        check("optuna", "to search for the best parameters")
        import optuna

        self._optuna = optuna
        self._study = study or self._new(mode, seed)
        if len(self._study.directions) > 1:
            raise UsageError("The study has several objectives.", "A sweep searches by one metric.")
        self._folder = folder.absolute()
        self._metric = metric
        self._trials = trials
        self._prune = prune
        self._open: dict[int, Any] = {}
        self._reported: dict[int, set[int]] = {}
        self._missing = 0
        """How many members in a row have logged no such metric."""
        self._told = {
            trial.user_attrs[_MEMBER]: trial
            for trial in self._study.get_trials(deepcopy=False)
            if _MEMBER in trial.user_attrs
        }
        """Trials of members that an earlier process has asked for, in a study that is stored."""
        lists = {name: each for name, each in domains.items() if not isinstance(each, Distribution)}
        self._fixed = {name: each[0] for name, each in lists.items() if len(each) == 1}
        self._choices = {
            name: {_choice(value): value for value in each}
            for name, each in lists.items()
            if name not in self._fixed
        }
        self._distributions = {
            name: self._distribution(name, each) for name, each in domains.items() if name not in self._fixed
        }

    def _name(self, number: int) -> str:
        return f"{self._folder}#{number}"

    def _new(self, mode: str, seed: int) -> optuna.Study:
        # The members that run count as bad ones, so that no two are alike.
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return self._optuna.create_study(
            sampler=sampler, direction="minimize" if mode == "min" else "maximize"
        )

    def _distribution(self, name: str, values: Domain) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(values, Distribution):
            return kinds.CategoricalDistribution([*self._choices[name]])
        if values.whole:  # Optuna's reach the upper bound
            return kinds.IntDistribution(int(values.low), int(values.high) - 1, log=values.log)
        return kinds.FloatDistribution(values.low, values.high, log=values.log)

    def ask(self, number: int) -> dict[str, Any] | None:
        """The next trial's parameters."""
        if number >= self._trials:
            return None
        trial = self._open[number] = self._study.ask(self._distributions)
        trial.set_user_attr(_MEMBER, self._name(number))
        chosen = {
            name: self._choices[name][value] if name in self._choices else value
            for name, value in trial.params.items()
        }
        return {**self._fixed, **chosen}

    def tell(self, member: Member, ended: Outcome) -> None:
        """What came of a member; one that an earlier process has run becomes a trial now."""
        state, value = self._end(member, ended)
        trial = self._open.pop(member.number, None)
        name = self._name(member.number)
        told = self._told.get(name)
        if trial is not None:
            self._study.tell(trial, value, state=state)
        elif told is not None and not told.state.is_finished():
            self._study.tell(told.number, value, state=state)
        elif told is None:
            points = {} if value is None else self._points(ended.run)
            params = {key: self._known(key, member.parameters[key]) for key in self._distributions}
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    state=state,
                    value=value,
                    params=params,
                    distributions=self._distributions,
                    intermediate_values=points,
                    user_attrs={_MEMBER: name},
                )
            )

    def _end(self, member: Member, ended: Outcome) -> tuple[Any, float | None]:
        states = self._optuna.trial.TrialState
        match ended.stage:
            case Stage.DONE:
                value = self._value(ended.run)
                return (states.FAIL, None) if value is None else (states.COMPLETE, value)
            case Stage.PRUNED:
                return states.PRUNED, None if member.number in self._open else self._last(ended.run)
            case _:
                return states.FAIL, None

    def _value(self, run: str) -> float | None:
        """What a member has reached; None when it can't be compared."""
        metrics = metrics_of(run)
        self._missing = 0 if self._metric in metrics else self._missing + 1
        if self._missing == _FEW:
            there = ", ".join(metrics) or "none"
            raise UsageError(
                f"{_FEW} members have logged no metric {self._metric!r} to search by, but: {there}.",
                f"In the notebook: nbcloud.log_metric({self._metric!r}, …)",
            )
        value = metrics.get(self._metric, math.nan)
        return value if math.isfinite(value) else None

    def _last(self, run: str) -> float | None:
        points = self._points(run)
        return points[max(points)] if points else None

    def _points(self, run: str) -> dict[int, float]:
        return {
            place if point.step is None else point.step: point.value
            for place, point in enumerate(history_of(run, self._metric))
        }

    def _known(self, key: str, value: Any) -> Any:
        return _choice(value) if key in self._choices else value

    def hopeless(self, member: Member) -> str:
        """Whether the study's pruner gives a member up, by the values that it has logged up to now."""
        trial = self._open.get(member.number)
        if not self._prune or trial is None or not (run := member.outcome.run):
            return ""
        reported = self._reported.setdefault(member.number, set())
        for step, value in self._points(run).items():
            if step not in reported:
                trial.report(value, step)
                reported.add(step)
        if not trial.should_prune():
            return ""
        return f"its {self._metric} was behind that of the others"


def _choice(value: Any) -> Any:
    """A value as Optuna can take it for a choice."""
    return value if isinstance(value, _PRIMITIVE) else json.dumps(value, default=repr)

"""``nbcloud.log_metric`` and its like: what code says about itself, on the record of its run.

In a ``%%cloud`` cell that is the cell's run, wherever it runs; the values travel with its outputs. Anywhere
else, in a local cell, a script, or a task of Dask, it is a run of the process, which a thread writes.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, cast

from nbcloud.errors import UsageError
from nbcloud.runs import experiments
from nbcloud.runs.entries import metric, plain, whole
from nbcloud.runs.record import RunState
from nbcloud.runs.sinks import Place, Sink

_KEY_CHARACTERS = 250
_place: contextvars.ContextVar[Place] = contextvars.ContextVar("nbcloud_run", default=("", ""))
_sink: Sink | None = None
_making = threading.Lock()


def install(sink: Sink) -> None:
    """Let all that this process logs go there."""
    global _sink
    _sink = sink


@contextlib.contextmanager
def installed(sink: Sink) -> Iterator[None]:
    """Let all that is logged inside go there."""
    global _sink
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before


def _sink_here() -> Sink:
    if _sink is None:
        from nbcloud.runs.writer import Writer

        with _making:
            if _sink is None:
                install(Writer())
    return cast(Sink, _sink)


def current() -> str:
    """The id of the run that ``start_run`` has begun here; empty outside of one."""
    log, part = _place.get()
    return part or log


def log_metric(key: str, value: float, step: int | None = None, *, time: float | None = None) -> None:
    """Put one value of a metric on record.

    Parameters
    ----------
    key : str
    value : float
        Or what becomes one by ``float()``: a number of numpy, a tensor of one element.
    step : int, optional
        Of the training, say. What counts as the metric's value of the run is that of the highest step.
    time : float, optional
        Unix seconds; now by default.
    """
    try:
        entry = metric(_key(key), float(value), None if step is None else whole(step), time or _now())
    except (TypeError, ValueError, OverflowError):
        raise UsageError(
            f"The metric {key!r} must be a number, and its step a whole one: got {value!r}, step {step!r}.",
            "Write for example: nbcloud.log_metric('loss', 0.3, step=5)",
        ) from None
    _sink_here().put(_place.get(), entry)


def log_metrics(values: Mapping[str, float], step: int | None = None) -> None:
    """Put values of several metrics on record."""
    now = _now()
    for key, value in values.items():
        log_metric(key, value, step, time=now)


def log_param(key: str, value: Any) -> None:
    """Put a parameter on record; the last value counts.

    Parameters
    ----------
    key : str
    value : object
        Numbers, texts, booleans, None, and lists and dicts of these come back as they are; else its text.
    """
    _sink_here().put(_place.get(), ["param", _key(key), plain(value)])


def log_params(values: Mapping[str, Any]) -> None:
    """Put several parameters on record."""
    for key, value in values.items():
        log_param(key, value)


def set_tag(key: str, value: object) -> None:
    """Give the run a tag: ``nbcloud runs --tag KEY=VALUE`` finds it."""
    _sink_here().put(_place.get(), ["tag", _key(key), str(value)])


def set_tags(values: Mapping[str, object]) -> None:
    """Give the run several tags."""
    for key, value in values.items():
        set_tag(key, value)


def set_experiment(name: str) -> None:
    """Let the run that goes on here, and those that are begun from now on, belong to an experiment.

    In a ``%%cloud`` cell, that is the cell's run and those of the session's next cells.

    Parameters
    ----------
    name : str
        ``nbcloud experiments`` lists them; one that is not there yet begins with its first run.
    """
    experiments.choose(_key(name))
    if _sink is not None and _sink.goes_on(_place.get()):
        _sink.put(_place.get(), ["experiment", name])


def log_artifact(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Put a file on record as it is now, or all files of a folder.

    Its content is not searched for secrets. Out of a ``%%cloud`` cell, files of up to 256 MiB travel.

    Parameters
    ----------
    path : path
    name : str, optional
        The file's own name by default; files of a folder are called ``name/…``.
    """
    source = Path(path)
    name = _file_name(source.absolute().name if name is None else name)
    if source.is_dir():
        for file in sorted(source.rglob("*")):
            if file.is_file():
                _sink_here().keep(_place.get(), f"{name}/{file.relative_to(source).as_posix()}", file)
    elif source.is_file():
        _sink_here().keep(_place.get(), name, source)
    else:
        raise UsageError(f"There is no file {str(path)!r} to log.", f"Relative paths begin at: {Path.cwd()}")


def log_figure(figure: Any, name: str) -> None:
    """Put a figure of matplotlib, plotly or Pillow on record as a file.

    Parameters
    ----------
    figure : object
    name : str
        The file's name; its ending says the format (``.png``, ``.svg``, ``.pdf``, ``.html``). Without one, it
        is PNG, or HTML for plotly.
    """
    from nbcloud.runs.displays import figure_file

    content, name = figure_file(figure, _file_name(name))
    _sink_here().keep(_place.get(), name, content)


def log_dataset(data: Any, name: str) -> str:
    """Put on record what was read: a hash of its content, and its schema; not the data.

    Parameters
    ----------
    data : pandas.DataFrame, pandas.Series, numpy.ndarray, mapping of these, or path
    name : str

    Returns
    -------
    str
        The hash: the same for equal data, wherever it is logged.
    """
    from nbcloud.runs.datasets import dataset_facts

    facts = dataset_facts(data)
    _sink_here().put(_place.get(), ["dataset", _key(name), facts])
    return str(facts["hash"])


def record(name: str, value: Any) -> None:
    """Put a value or a figure on record, to be read back without running the code again.

    Parameters
    ----------
    name : str
    value : object
        What JSON can hold comes back as it is; anything else as it is displayed.
    """
    from nbcloud.runs.displays import recorded

    _sink_here().put(_place.get(), ["record", _key(name), recorded(value)])


def flush() -> None:
    """Wait until all that was logged up to now is safe from the end of this process.

    Raises
    ------
    StoreError
        When the store can't take it.
    """
    _sink_here().flush()


class start_run:  # noqa: N801 - read as a verb: with nbcloud.start_run("fold 3"): …
    """A run of its own for what is logged inside the block; nested in the one that goes on, if there is one.

    Parameters
    ----------
    name : str, optional
    tags : mapping, optional

    Attributes
    ----------
    id : str
        Known inside the block.
    """

    def __init__(self, name: str = "", tags: Mapping[str, object] | None = None) -> None:
        self.name = name
        self.tags = {_key(key): str(value) for key, value in (tags or {}).items()}
        self.id = ""

    def __enter__(self) -> Self:
        self._began = _sink_here().begin(_place.get(), self.name, self.tags)
        self.id = self._began[1] or self._began[0]
        self._token = _place.set(self._began)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _place.reset(self._token)
        state = RunState.DONE if kind is None else RunState.FAILED
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            state = RunState.CANCELLED
        _sink_here().end(self._began, state)


def _now() -> float:
    return time.time()


def _key(key: str) -> str:
    if not isinstance(key, str) or not key or len(key) > _KEY_CHARACTERS or not key.isprintable():
        raise UsageError(
            f"{key!r} can't be the name of something logged: it must be a text of 1 to {_KEY_CHARACTERS} "
            "characters on one line."
        )
    return key


def _file_name(name: str) -> str:
    """The name, if it can be that of a file in whatever folder the run's files are brought to."""
    if ".." in _key(name).split("/") or "\\" in name or not PurePosixPath(name).name or name.startswith("/"):
        raise UsageError(
            f"{name!r} can't be the name of a file on record: it must not lead out of the run's folder.",
            "Write for example: name='plots/loss.png'",
        )
    return name

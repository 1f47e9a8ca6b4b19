"""The one error tree of nbcloud.

::

    NbcloudError
    ├── UsageError (ValueError)            an option, a name or a value that can't be right
    ├── MissingExtra (ImportError)         an optional package is not installed
    ├── ConfigError (ValueError)           a setting or nbcloud.toml is wrong
    ├── ClusterError
    │   ├── ClusterNotFound (LookupError)  no cluster of that name is up
    │   ├── ClusterStartError              a cluster did not come up
    │   ├── ClusterLost (ConnectionError)  the scheduler is gone or does not answer
    │   └── VersionSkew                    the two sides speak different protocols
    ├── SessionError
    │   ├── SessionNotFound (LookupError)  no session of that name lives on the cluster
    │   └── SessionLost                    its kernel or worker died; its state is gone
    ├── RunError
    │   ├── RemoteError                    the user's code raised; carries the remote traceback
    │   ├── RunCancelled                   cancelled or interrupted on request
    │   ├── RunTimeout (TimeoutError)      it took longer than ``--timeout``
    │   ├── RunPruned                      a search gave it up
    │   ├── RunLost                        kernel, worker or scheduler died under it
    │   └── RunNotFound (LookupError)      no such run on the cluster or in the store
    ├── TransferError
    │   ├── NotPicklable (TypeError)       an object can't travel; says which part of it
    │   └── HandleLost (LookupError)       a handle whose value is gone
    ├── ModelError
    │   ├── ExportError                    a model can't become ONNX; says which part of it, and where
    │   ├── VerificationError              the ONNX model answers otherwise than the framework's
    │   ├── ModelNotFound (LookupError)    no such model, version or alias in the registry
    │   ├── SchemaError (ValueError)       what a model was given is not what it takes
    │   └── BundleError                    a bundle is damaged, or not signed as it must be
    └── StoreError (OSError)               the local store of runs can't be used

Each error says what happened and where, and ``hint`` says the next thing to type. Commands are named as in a
notebook, ``%cloud down``; the command line, when it shows an error, says ``nbcloud down`` instead. Errors
carry plain data only, so that every one of them survives pickling.
"""

from __future__ import annotations

from typing import Any


class NbcloudError(Exception):
    """Root of all errors that nbcloud raises on purpose.

    Parameters
    ----------
    message : str
        One sentence: what is wrong, and where.
    hint : str, optional
        The next thing to type or to do.
    **data
        Plain values that a caller may want to look at; they become attributes.
    """

    def __init__(self, message: str, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data
        for key, value in data.items():
            setattr(self, key, value)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def _render_traceback_(self) -> list[str]:
        """How IPython shows it: the user's own lines and the sentence, not what is inside of libraries."""
        return [*_own_lines(self), f"{type(self).__name__}: {self}"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.data)


def _own_lines(error: BaseException) -> list[str]:
    # Not at import: nothing is needed of them until something is wrong.
    import sysconfig
    import traceback
    from pathlib import Path

    libraries = (str(Path(__file__).parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith((*libraries, "<frozen")):
            continue
        is_cell = "ipykernel_" in frame.filename or frame.filename.startswith("<")
        place = "cell" if is_cell else Path(frame.filename).name
        function = "" if frame.name.startswith("<") else f", in {frame.name}"
        lines.append(f"{place}, line {frame.lineno}{function}: {frame.line}")
    return lines


def _rebuild(kind: type[NbcloudError], message: str, hint: str, data: dict[str, Any]) -> NbcloudError:
    return kind(message, hint, **data)


class UsageError(NbcloudError, ValueError):
    """An option, a name or a value that can't be right."""


class MissingExtra(NbcloudError, ImportError):
    """An optional package is not installed."""


class ConfigError(NbcloudError, ValueError):
    """A setting is wrong."""


class ClusterError(NbcloudError):
    """Something about a cluster."""


class ClusterNotFound(ClusterError, LookupError):
    """No cluster of that name is up."""


class ClusterStartError(ClusterError):
    """A cluster did not come up."""


class ClusterLost(ClusterError, ConnectionError):
    """The scheduler is gone or does not answer."""


class VersionSkew(ClusterError):
    """The two sides speak different protocols."""


class SessionError(NbcloudError):
    """Something about a session."""


class SessionNotFound(SessionError, LookupError):
    """No session of that name lives on the cluster."""


class SessionLost(SessionError):
    """The session's kernel or worker died; its state is gone."""


class RunError(NbcloudError):
    """A run that did not end well."""


class RemoteError(RunError):
    """The user's code raised.

    ``ename``, ``evalue`` and ``traceback`` (a list of strings, with ANSI colours) are those of the
    remote kernel's ``error`` message.
    """

    def __init__(self, message: str, hint: str = "", **data: Any) -> None:
        self.ename = ""
        self.evalue = ""
        self.traceback: list[str] = []
        super().__init__(message, hint, **data)


class RunCancelled(RunError):
    """The run was cancelled or interrupted on request."""


class RunTimeout(RunError, TimeoutError):
    """The run took longer than its timeout."""


class RunPruned(RunError):
    """A search of a sweep gave the run up, because others do better."""


class RunLost(RunError):
    """The kernel, worker or scheduler died under the run."""


class RunNotFound(RunError, LookupError):
    """No such run on the cluster or in the store."""


class TransferError(NbcloudError):
    """A value can't travel between the notebook and the cluster."""


class NotPicklable(TransferError, TypeError):
    """An object can't be pickled; ``path`` names the part of it that can't."""


class HandleLost(TransferError, LookupError):
    """A handle whose value is gone, because its session ended or was reset."""


class ModelError(NbcloudError):
    """Exporting, keeping, loading or running a model."""


class ExportError(ModelError):
    """A model can't become ONNX."""


class VerificationError(ModelError):
    """The ONNX model answers otherwise than the framework's model."""


class ModelNotFound(ModelError, LookupError):
    """No such model, version or alias."""


class SchemaError(ModelError, ValueError):
    """What a model was given is not what it takes."""


class BundleError(ModelError):
    """A bundle can't be used."""


class StoreError(NbcloudError, OSError):
    """The local store of runs can't be used."""

"""A model that answers in this process: onnxruntime, and a check of what it is given.

Runs on devices, too: Python 3.9, numpy and onnxruntime only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from nbcloud.errors import ModelError
from nbcloud.models.metadata import Metadata
from nbcloud.models.reading import Reader
from nbcloud.models.signature import Feeds, Signature, Tensor

_REMOTE = "AzureExecutionProvider"
"""Sends what it is given elsewhere; onnxruntime names it among those that are there."""
_TYPES = {"float": "float32", "double": "float64", "string": "str"}


class Predictor:
    """A loaded model.

    Parameters
    ----------
    path : str or path
        Of its ONNX file.
    threads : int
        Of onnxruntime, for one prediction; 0 for as many as there are processors.
    providers : list of str, optional
        onnxruntime's execution providers, best first; all that there are otherwise.
    extended : bool
        With the extended optimisations only, where all of them would crash onnxruntime.

    Raises
    ------
    ModelError
        When onnxruntime can't load it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        providers: list[str] | None = None,
        extended: bool = False,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if extended:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        there = providers or [each for each in onnxruntime.get_available_providers() if each != _REMOTE]
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=there)
        except Exception as error:  # noqa: BLE001 - onnxruntime has many, of no common kind
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            is_other = "INVALID_PROTOBUF" in told
            hint = "Give an ONNX file; nbcloud.export() makes one of other models." if is_other else ""
            raise ModelError(f"onnxruntime can't load {os.fspath(path)}: {told}", hint) from None
        properties = self.session.get_modelmeta().custom_metadata_map
        self.metadata = Metadata.of(properties) or Metadata(_signature(self.session))
        self.signature = self.metadata.signature
        self._names = [output.name for output in self.signature.outputs]
        self._read = Reader(self.metadata.preprocessing, self.signature)
        self._run = _bare(self.session)

    def predict(self, data: Any) -> Any:
        """The model's answer.

        Parameters
        ----------
        data : array, DataFrame, mapping or tuple
            See `nbcloud.models.signature.Signature.feeds`.

        Returns
        -------
        array, or dict of array
            By the outputs' names, where there are several.

        Raises
        ------
        SchemaError
            Names the input or the column that is not as the model takes it.
        """
        answers = self._run(self._names, self._read(data), None)
        return answers[0] if len(answers) == 1 else dict(zip(self._names, answers))

    __call__ = predict

    def run(self, feeds: Feeds) -> Feeds:
        """The answers to arrays that are as the model takes them, by the outputs' names."""
        return dict(zip(self._names, self.session.run(self._names, feeds)))

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self._read.takes.inputs))
        gives = ", ".join(map(str, self.signature.outputs))
        return f"<{self.metadata.name or 'model'}: takes {takes}, gives {gives}>"


def _bare(session: Any) -> Callable[..., Any]:
    """What onnxruntime's ``run`` calls once it has looked whether the inputs are there, as the reader has.

    That look takes as long as a small model does. ``run`` itself is called where it does more, which is to
    go on with the processor when another provider fails, and where onnxruntime has changed.
    """
    inner = getattr(session, "_sess", None)
    if inner is None or session.get_providers() != ["CPUExecutionProvider"]:
        return session.run  # type: ignore[no-any-return]
    return inner.run  # type: ignore[no-any-return]


def _signature(session: Any) -> Signature:
    """What a file without nbcloud's metadata takes and gives, as far as its graph says."""
    return Signature(
        tuple(_tensor(each) for each in session.get_inputs()),
        tuple(_tensor(each) for each in session.get_outputs()),
    )


def _tensor(value: Any) -> Tensor:
    inner = value.type.partition("(")[2].rstrip(")")
    shape = tuple(size if size is not None else f"size{place}" for place, size in enumerate(value.shape))
    return Tensor(value.name, _TYPES.get(inner, inner), shape)

"""``nbcloud.load``: a registered model, or a file, that answers in this process."""

from __future__ import annotations

import os
from pathlib import Path

from nbcloud.errors import ModelNotFound
from nbcloud.extras import check
from nbcloud.inference.predictor import Predictor
from nbcloud.models.registry import Registry
from nbcloud.models.registry.reference import SCHEME, Reference


def load(
    model: str | os.PathLike[str],
    *,
    threads: int = 0,
    providers: list[str] | None = None,
    registry: str | None = None,
) -> Predictor:
    """Load a model for predictions.

    Parameters
    ----------
    model : str or path
        ``models:/digits@champion``, ``models:/digits/3#int8``; or the path of an ONNX file.
    threads : int
        For one prediction; 0 for as many as there are processors.
    providers : list of str, optional
        onnxruntime's execution providers, best first; all that there are otherwise.
    registry : str, optional
        Another registry than that of the settings.

    Returns
    -------
    Predictor
        Its ``predict`` takes arrays, tables and mappings, and checks them.

    Raises
    ------
    ModelNotFound
        When there is no such model, version, alias, variant or file.
    """
    check("onnxruntime", "to load models")
    text = os.fspath(model)
    if not text.startswith(SCHEME):
        path = Path(text)
        if not path.is_file():
            raise ModelNotFound(
                f"There is no file {text!r}.", f"A model of the registry is named so: {SCHEME}digits@champion"
            )
        return Predictor(path, threads=threads, providers=providers)
    reference = Reference.parse(text)
    version = Registry(registry).get(reference)
    facts = version.entry.variants[reference.variant].facts if reference.variant else {}
    return Predictor(
        version.path(reference.variant),
        threads=threads,
        providers=providers,
        extended=bool(facts.get("extended")),
    )

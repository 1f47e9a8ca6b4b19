"""What an ONNX file says of itself, under the key ``nbcloud`` of its metadata.

Runs on devices, too: Python 3.9 only. There are no times in it: the same model gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nbcloud.errors import ModelError
from nbcloud.models import steps
from nbcloud.models.signature import Signature, Tensor

KEY = "nbcloud"
FORMAT = 1
"""Version of the document. Adding a key keeps it; raise it when the meaning of one changes."""


@dataclass(frozen=True)
class Metadata:
    """Facts about a model.

    Parameters
    ----------
    framework, exporter : str
    versions : dict
        Of the packages that made it.
    preprocessing : list of dict
        Steps that the model's input needs and that are not in its graph (see `nbcloud.models.steps`).
    run : str
        The run that trained it.
    metrics : dict
    data_schema : str
        SHA-256 of the names and types of what it takes.
    licence : str
    verification : dict
        How it was compared with the framework's model: cases, largest differences, tolerances.
    """

    signature: Signature
    name: str = ""
    framework: str = ""
    exporter: str = ""
    opset: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    preprocessing: list[dict[str, Any]] = field(default_factory=list)
    run: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    data_schema: str = ""
    licence: str = ""
    notes: list[str] = field(default_factory=list)
    verification: dict[str, Any] = field(default_factory=dict)

    @property
    def takes(self) -> tuple[Tensor, ...]:
        """What the whole model takes, with the steps before its graph."""
        return steps.outer(self.preprocessing, self.signature.inputs)

    def to_text(self) -> str:
        """As it stands in the file."""
        document = {key: value for key, value in asdict(self).items() if value and key != "signature"}
        return json.dumps(
            {"format": FORMAT, **self.signature.to_json(), **document}, sort_keys=True, ensure_ascii=False
        )

    @classmethod
    def from_text(cls, text: str) -> Metadata:
        """The facts of `to_text`.

        Raises
        ------
        ModelError
            When it can't be read, or is of a later format.
        """
        try:
            document = json.loads(text)
            if document["format"] > FORMAT:
                raise ModelError(
                    f"The model's metadata is of format {document['format']}; this nbcloud knows {FORMAT}.",
                    "Type: pip install -U nbcloud",
                )
            signature = Signature.from_json(document)
            known = {key: document[key] for key in cls.__dataclass_fields__ if key in document}
            return cls(signature=signature, **known)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"The model's metadata can't be read ({error}).") from None

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Metadata | None:
        """The facts among an ONNX file's properties; None where nbcloud did not write it."""
        return cls.from_text(properties[KEY]) if KEY in properties else None

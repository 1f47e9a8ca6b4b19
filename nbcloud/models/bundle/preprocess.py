"""What is done before a model, declared as plain JSON. Runs on devices: Python 3.9 and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbcloud.errors import BundleError
from nbcloud.models.signature import Feeds


def apply(steps: Sequence[Mapping[str, Any]], given: Feeds) -> Feeds:
    """The model's inputs, made of what is given.

    Raises
    ------
    BundleError
        When this runtime has no preprocessing.
    """
    if not steps:
        return given
    try:
        from nbcloud.models import steps as known  # type: ignore[attr-defined, unused-ignore]
    except ImportError:
        raise BundleError(
            f"The model needs preprocessing ({steps[0].get('step', 'unnamed')}), unknown to this runtime.",
            "Bundle it again with a newer nbcloud.",
        ) from None
    made: Feeds = known.apply(steps, given)
    return made

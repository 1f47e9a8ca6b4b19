"""A kernel's namespace as one pickle, and the state of what draws random numbers with it.

What values share they share again where it is opened: an optimizer trains the model that was kept with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from nbcloud.cells.payloads import Payload, encode
from nbcloud.errors import NotPicklable
from nbcloud.sessions.kernel import randomness
from nbcloud.sessions.user_names import is_history

RANDOM = "random state"
"""No name of Python's, and so none of the user's."""
_ALWAYS = {"get_ipython", "exit", "quit", "open"}
"""Of IPython's own, what is in every kernel from the start."""


def freeze(
    values: Mapping[str, Any], namespace: Mapping[str, Any], reads: Iterable[str] | None, limit: int
) -> tuple[Payload | None, dict[str, str]]:
    """Pickle a namespace for a kernel that is to go on in its place.

    Parameters
    ----------
    values : mapping
        The user's names.
    namespace : mapping
        All of it.
    reads : iterable of str, optional
        What the cells to come read; may be anything by default.
    limit : int
        In bytes.

    Returns
    -------
    tuple of Payload or None, and dict
        None when a name is needed that can't be kept; and why each of those can't.
    """
    lacking = {name: "it is a widget" for name, value in values.items() if _is_widget(value)}
    kept = {name: value for name, value in values.items() if name not in lacking}
    kept[RANDOM] = randomness.state()
    try:
        payload = encode(kept, namespace, limit=limit)
    except NotPicklable:
        for name, value in [*kept.items()]:
            try:
                encode({name: value}, namespace, limit=limit)
            except NotPicklable as error:
                lacking[name] = error.message.rstrip(".")
                del kept[name]
        payload = encode(kept, namespace, limit=limit)
    if reads is None:
        return (None if lacking else payload), lacking
    # A function that is kept may be called, and with it all that it reads.
    needed = {*reads} | payload.uses
    history = {name for name in needed & namespace.keys() if is_history(name)} - _ALWAYS
    lacking |= {name: "it is IPython's history" for name in history if not name.startswith("__")}
    missed = {name: why for name, why in lacking.items() if name in needed}
    return (None if missed else payload), missed


def _is_widget(value: Any) -> bool:
    widgets = sys.modules.get("ipywidgets")
    return widgets is not None and isinstance(value, widgets.Widget)

"""Functions of the user's: what is told when one of them fails, with its own line."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from nbcloud.errors import NbcloudError, UsageError
from nbcloud.models.export.torch.refusals import line

_OURS = str(Path(__file__).parents[2])
_OTHERS = (_OURS, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Tell whose line an error comes from.

    Parameters
    ----------
    what : str
        The argument that the function was given as: ``metric=``.

    Raises
    ------
    UsageError
        For whatever the function raised, but for errors of nbcloud's own.
    """
    try:
        yield
    except NbcloudError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames if not each.filename.startswith(_OTHERS)]
        place = f" ({line(own[-1].filename, own[-1].lineno or 0)})" if own else ""
        told = (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
        raise UsageError(
            f"The function given as {what} failed{place}: {type(error).__name__}: {told}.",
            "Try it alone, on a few rows of data and the model's answers to them.",
        ) from error

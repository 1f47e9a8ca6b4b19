"""Which of a worker's GPUs belongs to which session.

Dask counts GPUs as a resource, and knows no numbers. These are handed out here: a session sees its own
devices only, so that two of them on one worker do not compute on the same one.
"""

from __future__ import annotations

from collections.abc import Mapping

CUDA = "CUDA_VISIBLE_DEVICES"
_VARIABLES = (CUDA, "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_NVIDIA = "NVIDIA_VISIBLE_DEVICES"
_NONE = {"-1", "none", "void", "NoDevFiles"}
"""What these variables say when there is no device, beside nothing."""


class Devices:
    """The GPUs of one worker.

    Parameters
    ----------
    environment : mapping
        The worker's.
    declared : float
        How much of the Dask resource ``GPU`` it has.
    """

    def __init__(self, environment: Mapping[str, str], declared: float) -> None:
        self.variable = next((name for name in _VARIABLES if name in environment), CUDA)
        self.declared = declared > 0
        self._free = self._listed(environment.get(self.variable), declared) if self.declared else []
        self._names = tuple(self._free)
        self._taken: dict[str, list[str]] = {}

    @staticmethod
    def _listed(value: str | None, declared: float) -> list[str]:
        if value is None:
            return [str(number) for number in range(int(declared))]
        names = [name.strip() for name in value.split(",")]
        return [name for name in names if name and name not in _NONE]

    def take(self, session: str, count: int) -> list[str]:
        """Give a session so many devices, which are its own until it gives them back.

        Raises
        ------
        LookupError
            When the worker has declared more devices than it has.
        """
        if count > len(self._free):
            raise LookupError(
                f"its worker has declared more GPUs than {self.variable} names there "
                f"({','.join(self._names) or 'none'})"
            )
        given, self._free = self._free[:count], self._free[count:]
        self._taken[session] = given
        return given

    def give_back(self, session: str) -> None:
        """A session is over."""
        given = self._taken.pop(session, [])
        self._free = [name for name in self._names if name in {*self._free, *given}]

    def environment(self, given: list[str]) -> dict[str, str]:
        """What a session's process must have in its environment to see these devices, and no others.

        Empty on a worker that declares none: there everybody sees what the worker sees.
        """
        if not self.declared:
            return {}
        if self.variable == CUDA:
            return {CUDA: ",".join(given), _NVIDIA: ",".join(given) or "none"}
        return {self.variable: ",".join(given) or "-1"}  # which takes an empty one for none given

"""What NVIDIA's management library tells of devices, where it is there (``pip install nvidia-ml-py``).

Nothing here raises: a machine without a driver, or a device that keeps something to itself, is no error of a
cell. All of it may take a while, and belongs into a thread.
"""

from __future__ import annotations

import contextlib
from typing import Any


def _library() -> Any:
    """The library, ready for use; None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - not installed, no driver, another driver's version
        return None
    return pynvml


def _handle(library: Any, device: str) -> Any:
    """A device by its number, or by its UUID as CUDA names it."""
    if device.isdigit():
        return library.nvmlDeviceGetHandleByIndex(int(device))
    return library.nvmlDeviceGetHandleByUUID(device)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def facts(devices: list[str]) -> dict[str, Any]:
    """For the record of a run: ``gpu_names``, ``gpu_memory`` (bytes) and ``gpu_driver``; empty if unknown."""
    library = _library() if devices else None
    if library is None:
        return {}
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        handles = [_handle(library, device) for device in devices]
        found["gpu_names"] = [_text(library.nvmlDeviceGetName(handle)) for handle in handles]
        found["gpu_memory"] = [int(library.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
        found["gpu_driver"] = _text(library.nvmlSystemGetDriverVersion())
    return found


class Watch:
    """Utilisation and memory of a run's devices.

    Parameters
    ----------
    devices : list of str
    """

    def __init__(self, devices: list[str]) -> None:
        self._devices = devices
        self._known: Any = None
        self._handles: dict[str, Any] | None = None

    def look(self) -> dict[str, dict[str, float]]:
        """For each device, as far as it tells, ``utilisation`` (percent) and ``memory`` (bytes in use)."""
        if self._handles is None:
            self._open()
        library, found = self._known, dict[str, dict[str, float]]()
        for device, handle in (self._handles or {}).items():
            seen = found.setdefault(device, {})
            with contextlib.suppress(Exception):
                seen["utilisation"] = float(library.nvmlDeviceGetUtilizationRates(handle).gpu)
            with contextlib.suppress(Exception):
                seen["memory"] = float(library.nvmlDeviceGetMemoryInfo(handle).used)
        return found

    def _open(self) -> None:
        self._handles = {}
        self._known = _library() if self._devices else None
        if self._known is None:
            return
        for device in self._devices:
            with contextlib.suppress(Exception):
                self._handles[device] = _handle(self._known, device)

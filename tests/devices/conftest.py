"""Devices, emulated; where one can't be made, its tests are skipped with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.devices.arm64 import Device, Unavailable, device


@pytest.fixture(scope="session")
def arm64() -> Device:
    """A device with an aarch64 processor; kept from run to run below the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nbcloud-tests"
    try:
        return device(cache)
    except (Unavailable, OSError) as error:
        pytest.skip(f"no aarch64 device: {error}")

"""The cluster of ``tests.kubernetes``, for the contract of that kind of cluster."""

from tests.integration.kubernetes.conftest import *  # noqa: F403 - the same fixtures

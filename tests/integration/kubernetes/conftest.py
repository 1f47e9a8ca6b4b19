"""The cluster of ``tests.kubernetes``, here."""

from __future__ import annotations

from tests.integration.kubernetes.profiles import notebook, project
from tests.kubernetes.conftest import (
    _only_on_a_double,
    fresh_clients,
    kubernetes,
    kubernetes_double,
    pytest_collection_modifyitems,
)

__all__ = [
    "_only_on_a_double",
    "fresh_clients",
    "kubernetes",
    "kubernetes_double",
    "notebook",
    "project",
    "pytest_collection_modifyitems",
]

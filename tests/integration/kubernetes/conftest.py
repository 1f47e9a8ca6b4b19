"""The cluster of ``tests.kubernetes``, here."""

from __future__ import annotations

from tests.kubernetes.conftest import _only_on_a_double, kubernetes, kubernetes_double

__all__ = ["_only_on_a_double", "kubernetes", "kubernetes_double"]

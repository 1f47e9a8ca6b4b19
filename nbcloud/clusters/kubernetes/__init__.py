"""Clusters of the dask-kubernetes operator.

::

    profile ─► manifests ─► api ─► the operator makes pods of them
                             │
    notebook ── forward ═════╪═══► scheduler (with a steward) ══► workers
                             │
              phases ◄───────┘   why a pod does not come up

What there is, Kubernetes knows: a cluster is found there from any machine. The steward is the only part that
runs in the cluster; it needs Dask and nothing more.
"""

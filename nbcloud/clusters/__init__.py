"""Clusters: named Dask clusters that are started, found again, sized and ended."""

"""Run Jupyter cells on Dask clusters as if they ran here."""

__version__ = "0.1.0"

"""Notebooks from files: one run by papermill's engine, and many as a sweep."""

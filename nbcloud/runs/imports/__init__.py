"""Runs on their way from MLflow, asked for by a person: what ``mirror`` is the other way round.

``source`` tells what an address is, ``words`` what a run there is here, ``files`` brings its files, and
``importer`` goes through them all. Each run has one id here, which follows from MLflow's: whatever is done
again finds what is there, so an import may be stopped anywhere and repeated.
"""

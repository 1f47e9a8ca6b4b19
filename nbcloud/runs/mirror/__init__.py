"""Runs on their way to MLflow, by a process of its own.

Every change to a run gets the next number in the table ``changes``. A mirror is a target with the number up
to which all is there: ``feed`` keeps that, ``sender`` brings one run there, ``process`` goes through what is
due, alone among all processes, and ``wake`` sees to it that such a process runs while there is something to
do. So no cell waits for a server, what is away is caught up with later, and MLflow's settings and imports
stay out of the user's process.
"""

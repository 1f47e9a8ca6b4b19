"""Kernels beside Dask workers, and the journal of all that they say.

::

    notebook ── client ── link ══ journal ══ host ── process ── kernel
                 names     │     (scheduler)  (worker)           names
                           └ a channel each way: ordered, resumed after a broken connection

A *run* is one ``execute_request``. Its messages get their numbers in the journal (``runlog``), and every
reader asks for those after the last that it has. Large values go beside this road, through the ``spool`` of
the worker's machine.
"""

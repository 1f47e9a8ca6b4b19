"""Kernels beside Dask workers, and the journal of all that they say.

::

    notebook ───── client ══════ journal ══════ host ────── kernel
                      ║        (scheduler)    (worker)    (a process)
                      ╚══════════shortcut═══════╝

Each folder is what one kind of process runs; the files beside them are what these have in common.

A *run* is one ``execute_request``. Its messages get their numbers where its session lives (``host.run``), are
kept in the journal (``runlog``), and every reader asks for those after the last that it has. A double line is
a ``channel``: ordered each way, and resumed after a broken connection. The shortcut carries the same messages
to the one who asked for the run, sooner; it may be missing. Large values go beside all this, through the
``spool`` of the worker's machine.

A *gang* is several sessions that run each cell together (``journal.gang``). For clients it is one session:
the journal gives its runs to all members and puts what these say into one log, under numbers of its own. So a
gang has no shortcut.
"""

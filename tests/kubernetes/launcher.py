"""The first program of every process of the double: ``launcher.py PARENT PROGRAM ARGUMENT…`` becomes the program.

The process is the leader of a session, and dies with the one that started it, however that ends.
"""

import ctypes
import os
import signal
import sys

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(program, sys.argv[2:])

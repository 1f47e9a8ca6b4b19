"""``python -m nbcloud``: the command line, where its folder is not on the path."""

import sys

from nbcloud.cli import main

if __name__ == "__main__":
    sys.exit(main())
